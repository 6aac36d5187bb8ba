/**
 * Samples to a receiver that refuses a request whole for a single bad sample: what is refused is halved until the bad one is
 * alone. Pure but for `post`.
 */
import { encodeWriteRequest, type WriteSample, type WriteSeries } from './write-request.ts';

/** What became of one request. */
export type PostOutcome =
  | { readonly kind: 'taken' }
  /** The samples are to blame: sent again, they are refused again. */
  | { readonly kind: 'refused'; readonly reason: string }
  /** Something else is; the same request may succeed later. */
  | { readonly kind: 'failed'; readonly reason: string; readonly retryAfterMs?: number | undefined };

export type Post = (body: Uint8Array) => Promise<PostOutcome>;

/** Why samples were given up. */
export const DROP_CAUSES = ['too_old', 'refused', 'undecided', 'queue_full', 'damaged', 'folded', 'overtaken'] as const;
export type DropCause = (typeof DROP_CAUSES)[number];

/** Requests that one delivery may take: a receiver that refuses everything is not asked for each sample. */
const MAX_REQUESTS = 256;
/** A sample behind the receiver's window: so is everything older. */
const BEHIND_WINDOW = /too old|out of bounds/i;
const OUT_OF_ORDER = /out of order/i;

export class Delivery {
  taken = 0;
  readonly dropped = new Map<DropCause, number>();
  /** What the receiver said of the last sample that it refused alone. */
  refusal: string | undefined;
  /** Pieces still to be sent, the newest samples last; each ascending in time. */
  readonly #pieces: (readonly WriteSample[])[];
  readonly #outOfOrderUpToMs = new Map<WriteSeries, number>();
  #behindUpToMs = Number.NEGATIVE_INFINITY;
  #requests = 0;

  constructor(samples: readonly WriteSample[]) {
    this.#pieces = samples.length === 0 ? [] : [[...samples].sort((a, b) => a.timestampMs - b.timestampMs)];
  }

  get isDone(): boolean {
    return this.#pieces.length === 0;
  }

  /**
   * Sends until nothing is left, or until a request fails: then what is left can be run later.
   *
   * @param oldestMs what is older is dropped before it is sent.
   * @param tell is told of each request's outcome.
   */
  async run(post: Post, oldestMs: number, tell: (outcome: PostOutcome) => void): Promise<PostOutcome> {
    for (;;) {
      const piece = this.#pieces.pop();
      if (piece === undefined) return { kind: 'taken' };
      const samples = this.#wanted(piece, oldestMs);
      if (samples.length === 0) continue;
      if (this.#requests >= MAX_REQUESTS) {
        this.#drop('undecided', samples.length);
        continue;
      }
      this.#requests += 1;
      const outcome = await post(encodeWriteRequest(samples));
      tell(outcome);
      switch (outcome.kind) {
        case 'taken':
          this.taken += samples.length;
          break;
        case 'refused':
          this.#split(samples, outcome.reason);
          break;
        case 'failed':
          this.#pieces.push(samples);
          this.#requests -= 1;
          return outcome;
      }
    }
  }

  #split(samples: readonly WriteSample[], reason: string): void {
    const [only] = samples;
    if (samples.length > 1) {
      const middle = samples.length >> 1;
      this.#pieces.push(samples.slice(0, middle), samples.slice(middle));
      return;
    }
    const { series, timestampMs } = only!;
    this.refusal = reason;
    if (BEHIND_WINDOW.test(reason)) {
      this.#behindUpToMs = Math.max(this.#behindUpToMs, timestampMs);
      this.#drop('too_old', 1);
      return;
    }
    if (OUT_OF_ORDER.test(reason)) {
      this.#outOfOrderUpToMs.set(series, Math.max(this.#outOfOrderUpToMs.get(series) ?? 0, timestampMs));
    }
    this.#drop('refused', 1);
  }

  /** What is worth a request, by what the receiver has said of others. */
  #wanted(piece: readonly WriteSample[], oldestMs: number): readonly WriteSample[] {
    const recent = piece.filter(({ timestampMs }) => timestampMs >= oldestMs && timestampMs > this.#behindUpToMs);
    this.#drop('too_old', piece.length - recent.length);
    if (this.#outOfOrderUpToMs.size === 0) return recent;
    const wanted = recent.filter(
      ({ series, timestampMs }) => timestampMs > (this.#outOfOrderUpToMs.get(series) ?? Number.NEGATIVE_INFINITY),
    );
    this.#drop('refused', recent.length - wanted.length);
    return wanted;
  }

  #drop(cause: DropCause, count: number): void {
    if (count > 0) this.dropped.set(cause, (this.dropped.get(cause) ?? 0) + count);
  }
}

/** Answers that tell of the samples, not of the receiver's day: Prometheus says 500 where one is behind its window. */
const ABOUT_SAMPLES = /out of order|out of bounds|too old|duplicate sample/i;

/** What an answer means. */
export function outcomeOf(status: number, body: string, retryAfterMs: number | undefined): PostOutcome {
  if (status >= 200 && status < 300) return { kind: 'taken' };
  const reason = `${status} ${body.trim().slice(0, 200)}`;
  if (status === 400 || status === 413 || status === 422 || (status === 500 && ABOUT_SAMPLES.test(body))) {
    return { kind: 'refused', reason };
  }
  return { kind: 'failed', reason, retryAfterMs };
}

/** `Retry-After`: seconds or a date. Undefined when it is neither. RFC 9110 section 10.2.3. */
export function parseRetryAfterMs(value: string | null, nowMs: number): number | undefined {
  if (value === null) return undefined;
  if (/^\d{1,9}$/.test(value.trim())) return Number(value) * 1_000;
  const atMs = Date.parse(value);
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - nowMs);
}

/** Posts over HTTP. */
export function httpPost(
  { url, headers, timeoutMs }: { url: string; headers: Readonly<Record<string, string>>; timeoutMs: number },
  version: string,
  wallMs: () => number,
  stopped: AbortSignal,
): Post {
  return async (body) => {
    try {
      const response = await fetch(url, {
        method: 'POST',
        body: body as Uint8Array<ArrayBuffer>,
        redirect: 'manual',
        signal: AbortSignal.any([stopped, AbortSignal.timeout(timeoutMs)]),
        headers: {
          ...headers,
          'content-type': 'application/x-protobuf',
          'content-encoding': 'snappy',
          'x-prometheus-remote-write-version': '0.1.0',
          'user-agent': `wan-collector/${version}`,
        },
      });
      const text = await response.text();
      return outcomeOf(response.status, text, parseRetryAfterMs(response.headers.get('retry-after'), wallMs()));
    } catch (error) {
      const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
      return { kind: 'failed', reason: cause instanceof Error ? cause.message : String(cause) };
    }
  };
}
