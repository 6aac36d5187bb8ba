/**
 * A table of series: one slot for each path (or host pair, or site pair), its numbers in typed arrays.
 *
 * Sized for a million paths: no object per series, rows in pages so that growing copies nothing, label values interned
 * once. A freed slot is used again; whoever keeps a slot number must drop it when the slot is released.
 */
import { HTTP_PHASES, OUTCOMES, PATH_FIELDS, type PathField } from '@wanscope/shared';

const PAGE_BITS = 10;
const PAGE_SLOTS = 1 << PAGE_BITS;
const PAGE_MASK = PAGE_SLOTS - 1;

/** Buckets of a classic histogram: 2^-12 s or less, up to 2^3 s, and over. */
export const CLASSIC_BUCKETS = 17;

/** Columns that only grow. Snapshots name them (`columns.ts`), so their order is free; a new group of several needs names there. */
export const COUNTER = {
  sent: 0,
  lost: 1,
  late: 2,
  duplicates: 3,
  reordered: 4,
  notSent: 5,
  spoofed: 6,
  replayed: 7,
  lostForward: 8,
  lostReverse: 9,
  lostUnknown: 10,
  backfilled: 11,
  bursts: 12,
  burstPackets: 13,
  burstLost: 14,
  rttCount: 15,
  rttSumNs: 16,
  pdvSumNs: 17,
  ipdvCount: 18,
  ipdvSumNs: 19,
  outcomes: 20,
  phaseCounts: 20 + OUTCOMES.length,
  phaseSumsNs: 20 + OUTCOMES.length + HTTP_PHASES.length,
  rttBuckets: 20 + OUTCOMES.length + 2 * HTTP_PHASES.length,
  pdvBuckets: 20 + OUTCOMES.length + 2 * HTTP_PHASES.length + CLASSIC_BUCKETS,
  ipdvBuckets: 20 + OUTCOMES.length + 2 * HTTP_PHASES.length + 2 * CLASSIC_BUCKETS,
  contaminated: 20 + OUTCOMES.length + 2 * HTTP_PHASES.length + 3 * CLASSIC_BUCKETS,
  /** One-way delay variation: samples, and their sums by direction. */
  oneWayCount: 21 + OUTCOMES.length + 2 * HTTP_PHASES.length + 3 * CLASSIC_BUCKETS,
  forwardPdvSumNs: 22 + OUTCOMES.length + 2 * HTTP_PHASES.length + 3 * CLASSIC_BUCKETS,
  reversePdvSumNs: 23 + OUTCOMES.length + 2 * HTTP_PHASES.length + 3 * CLASSIC_BUCKETS,
  routeChanges: 24 + OUTCOMES.length + 2 * HTTP_PHASES.length + 3 * CLASSIC_BUCKETS,
  end: 25 + OUTCOMES.length + 2 * HTTP_PHASES.length + 3 * CLASSIC_BUCKETS,
} as const;

/** Columns that say how a series is now. NaN stands for "none" inside the table and never leaves it. */
export const GAUGE = {
  /** Start and end of the latest live interval, its counts and delays. */
  intervalStartMs: COUNTER.end,
  intervalEndMs: COUNTER.end + 1,
  intervalSent: COUNTER.end + 2,
  intervalLost: COUNTER.end + 3,
  intervalMinNs: COUNTER.end + 4,
  intervalMeanNs: COUNTER.end + 5,
  intervalMaxNs: COUNTER.end + 6,
  intervalMedianNs: COUNTER.end + 7,
  jitterNs: COUNTER.end + 8,
  tlsExpiryS: COUNTER.end + 9,
  /** Index in STATES and REASONS, and since when. */
  state: COUNTER.end + 10,
  reason: COUNTER.end + 11,
  sinceMs: COUNTER.end + 12,
  /** `PathHistory`. */
  rttBreaches: COUNTER.end + 13,
  lossBreaches: COUNTER.end + 14,
  unansweredIntervals: COUNTER.end + 15,
  lostInARow: COUNTER.end + 16,
  everAnswered: COUNTER.end + 17,
  violated: COUNTER.end + 18,
  measured: COUNTER.end + 19,
  /** End of the latest interval with probes, and with an answer of any kind. */
  sentEndMs: COUNTER.end + 20,
  answerEndMs: COUNTER.end + 21,
  /** When the path was last found missing from its source's dictionary. */
  absentSinceMs: COUNTER.end + 22,
  /** Rollups: paths merged into it, and how many of them are in each state. */
  members: COUNTER.end + 23,
  membersByState: COUNTER.end + 24,
  unverifiedMembers: COUNTER.end + 28,
  /** Site pairs: what was promised, and whether the policy denies the pair. */
  objectiveRttNs: COUNTER.end + 29,
  objectiveLossRatio: COUNTER.end + 30,
  denied: COUNTER.end + 31,
  /** Paths: their host pair and site pair. */
  hostSlot: COUNTER.end + 32,
  siteSlot: COUNTER.end + 33,
  /** Paths of voice tests: mean opinion score of the latest interval. */
  mos: COUNTER.end + 34,
  /** Site pairs of voice tests: the listener's end. */
  jitterBufferNs: COUNTER.end + 35,
  concealment: COUNTER.end + 36,
  /** Paths of tests of a class other than BE: the class of the latest interval's last answer. */
  seenDscp: COUNTER.end + 37,
  /** Position in TLS_FAILURES; none when the latest handshake went well. */
  tlsFailure: COUNTER.end + 38,
  /** Paths whose answerer says when probes arrived: one-way delay of the latest interval. */
  forwardChangeNs: COUNTER.end + 39,
  reverseChangeNs: COUNTER.end + 40,
  forwardPdvNs: COUNTER.end + 41,
  reversePdvNs: COUNTER.end + 42,
  forwardMeanNs: COUNTER.end + 43,
  reverseMeanNs: COUNTER.end + 44,
  clockOffsetNs: COUNTER.end + 45,
  clockErrorNs: COUNTER.end + 46,
  /** Hops of the route, and the path MTU; whether larger packets vanish. */
  routeHops: COUNTER.end + 47,
  mtuBytes: COUNTER.end + 48,
  mtuBlackHole: COUNTER.end + 49,
  /** Paths whose reflector tells: the class of the latest interval's last probe as it arrived there. */
  farSeenDscp: COUNTER.end + 50,
  /** More of `PathHistory`; the reason is an index in REASONS. */
  serviceBreaches: COUNTER.end + 51,
  breachSinceMs: COUNTER.end + 52,
  unansweredSinceMs: COUNTER.end + 53,
  unmeasuredIntervals: COUNTER.end + 54,
  unmeasuredSinceMs: COUNTER.end + 55,
  unmeasuredReason: COUNTER.end + 56,
  /** End of the latest interval in which something was sent or was to be sent. */
  attemptEndMs: COUNTER.end + 57,
  /** Index in NOT_SENT_CAUSES: why most of what the latest interval could not send was not sent. */
  notSentCause: COUNTER.end + 58,
  /** Paths: a refusal is a failure of the service. */
  isService: COUNTER.end + 59,
  /** Rollups: how many members cannot be measured, in the order of UNMEASURED_CAUSES. */
  unmeasuredMembers: COUNTER.end + 60,
  end: COUNTER.end + 63,
} as const;

export const STRIDE = GAUGE.end;

const GAUGES_WITHOUT_VALUE = [
  GAUGE.intervalStartMs,
  GAUGE.intervalEndMs,
  GAUGE.intervalMinNs,
  GAUGE.intervalMeanNs,
  GAUGE.intervalMaxNs,
  GAUGE.intervalMedianNs,
  GAUGE.jitterNs,
  GAUGE.tlsExpiryS,
  GAUGE.tlsFailure,
  GAUGE.sentEndMs,
  GAUGE.answerEndMs,
  GAUGE.absentSinceMs,
  GAUGE.objectiveRttNs,
  GAUGE.objectiveLossRatio,
  GAUGE.mos,
  GAUGE.jitterBufferNs,
  GAUGE.seenDscp,
  GAUGE.farSeenDscp,
  GAUGE.forwardChangeNs,
  GAUGE.reverseChangeNs,
  GAUGE.forwardPdvNs,
  GAUGE.reversePdvNs,
  GAUGE.forwardMeanNs,
  GAUGE.reverseMeanNs,
  GAUGE.clockOffsetNs,
  GAUGE.clockErrorNs,
  GAUGE.routeHops,
  GAUGE.mtuBytes,
  GAUGE.mtuBlackHole,
  GAUGE.breachSinceMs,
  GAUGE.unansweredSinceMs,
  GAUGE.unmeasuredSinceMs,
  GAUGE.unmeasuredReason,
  GAUGE.attemptEndMs,
  GAUGE.notSentCause,
] as const;

/** A row of a series that has counted nothing. */
export function emptyRow(): Float64Array {
  const row = new Float64Array(STRIDE);
  for (const column of GAUGES_WITHOUT_VALUE) row[column] = Number.NaN;
  return row;
}

/** The label values of a series: a path's, of which a rollup leaves those it merges over empty. */
export type SeriesParts = Readonly<Record<PathField, string>>;

const PARTS = PATH_FIELDS.length;
/** Position of each field among a slot's parts, for `partId`. */
export const FIELD_INDEX = Object.fromEntries(PATH_FIELDS.map((field, at) => [field, at])) as Readonly<
  Record<PathField, number>
>;

/** Texts that repeat in many series, each kept once. */
export class TextPool {
  readonly #texts: string[] = [''];
  readonly #ids = new Map<string, number>([['', 0]]);

  idOf(text: string): number {
    const known = this.#ids.get(text);
    if (known !== undefined) return known;
    const id = this.#texts.length;
    this.#texts.push(text);
    this.#ids.set(text, id);
    return id;
  }

  /** Undefined when no series ever had it. */
  find(text: string): number | undefined {
    return this.#ids.get(text);
  }

  textOf(id: number): string {
    return this.#texts[id]!;
  }
}

export class SeriesTable {
  readonly #pool: TextPool;
  readonly #pages: Float64Array[] = [];
  readonly #partPages: Uint32Array[] = [];
  readonly #slots = new Map<string, number>();
  readonly #keys: (string | undefined)[] = [];
  readonly #labels: (string | undefined)[] = [];
  readonly #free: number[] = [];
  #revision = 0;

  constructor(pool: TextPool) {
    this.#pool = pool;
  }

  /** Grows whenever a series comes or goes. */
  get revision(): number {
    return this.#revision;
  }

  /** Series in the table. */
  get size(): number {
    return this.#slots.size;
  }

  /** One above the highest slot ever used; slots below it may be free. */
  get limit(): number {
    return this.#keys.length;
  }

  find(key: string): number | undefined {
    return this.#slots.get(key);
  }

  /** Undefined for a free slot. */
  keyOf(slot: number): string | undefined {
    return this.#keys[slot];
  }

  /** The slot of `key`, made with zero counts when there is none. */
  acquire(key: string, parts: SeriesParts): number {
    const known = this.#slots.get(key);
    if (known !== undefined) return known;
    this.#revision += 1;
    const slot = this.#free.pop() ?? this.#keys.length;
    if (slot >> PAGE_BITS >= this.#pages.length) {
      this.#pages.push(new Float64Array(PAGE_SLOTS * STRIDE));
      this.#partPages.push(new Uint32Array(PAGE_SLOTS * PARTS));
    }
    this.#keys[slot] = key;
    this.#labels[slot] = undefined;
    this.#slots.set(key, slot);
    const page = this.pageOf(slot);
    const base = this.baseOf(slot);
    page.fill(0, base, base + STRIDE);
    for (const column of GAUGES_WITHOUT_VALUE) page[base + column] = Number.NaN;
    const partPage = this.#partPages[slot >> PAGE_BITS]!;
    const partBase = (slot & PAGE_MASK) * PARTS;
    for (let i = 0; i < PARTS; i += 1) partPage[partBase + i] = this.#pool.idOf(parts[PATH_FIELDS[i]!]);
    return slot;
  }

  release(slot: number): void {
    const key = this.#keys[slot];
    if (key === undefined) return;
    this.#revision += 1;
    this.#slots.delete(key);
    this.#keys[slot] = undefined;
    this.#labels[slot] = undefined;
    this.#free.push(slot);
  }

  /** The page that holds a slot's row; read it at `baseOf(slot) + column`. */
  pageOf(slot: number): Float64Array {
    return this.#pages[slot >> PAGE_BITS]!;
  }

  baseOf(slot: number): number {
    return (slot & PAGE_MASK) * STRIDE;
  }

  get(slot: number, column: number): number {
    return this.#pages[slot >> PAGE_BITS]![(slot & PAGE_MASK) * STRIDE + column]!;
  }

  set(slot: number, column: number, value: number): void {
    this.#pages[slot >> PAGE_BITS]![(slot & PAGE_MASK) * STRIDE + column] = value;
  }

  /** A gauge, undefined when it has no value. */
  gauge(slot: number, column: number): number | undefined {
    const value = this.get(slot, column);
    return Number.isNaN(value) ? undefined : value;
  }

  /** Interned id of one label value: cheap to compare with `TextPool.find`. */
  partId(slot: number, field: number): number {
    return this.#partPages[slot >> PAGE_BITS]![(slot & PAGE_MASK) * PARTS + field]!;
  }

  part(slot: number, field: PathField): string {
    return this.#pool.textOf(this.partId(slot, FIELD_INDEX[field]));
  }

  partsOf(slot: number): SeriesParts {
    const parts = {} as Record<PathField, string>;
    for (let i = 0; i < PARTS; i += 1) parts[PATH_FIELDS[i]!] = this.#pool.textOf(this.partId(slot, i));
    return parts;
  }

  /** The label text of a slot, made once by `render` and kept until the slot is released. */
  labelsOf(slot: number, render: (parts: SeriesParts) => string): string {
    return (this.#labels[slot] ??= render(this.partsOf(slot)));
  }

  /** Used slots in ascending order. The callback may release the slot it is given. */
  forEach(visit: (slot: number) => void): void {
    for (let slot = 0; slot < this.#keys.length; slot += 1) {
      if (this.#keys[slot] !== undefined) visit(slot);
    }
  }

  /** A copy of one row, for a snapshot. */
  copyRow(slot: number, into: Float64Array, at: number): void {
    const base = this.baseOf(slot);
    into.set(this.pageOf(slot).subarray(base, base + STRIDE), at);
  }

  restoreRow(slot: number, row: Float64Array): void {
    this.pageOf(slot).set(row, this.baseOf(slot));
  }
}
