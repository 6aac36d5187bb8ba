/**
 * Client of the WAN emulator (lab/native): makes links, changes what they do to packets and reads what really happened.
 *
 * One JSON request per line, one answer per line, in order, over a Unix socket; lab/native/README.md describes both.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { systemClock, WanscopeError, type Clock } from '@wanscope/shared';

export type EmulatorErrorCode =
  /** Nobody answered at the socket before the deadline. */
  | 'EMULATOR_UNREACHABLE'
  /** An answer did not come in time. */
  | 'EMULATOR_TIMEOUT'
  /** The emulator said no; the message is its reason. */
  | 'EMULATOR_REFUSED'
  /** The answer is not one. */
  | 'EMULATOR_PROTOCOL'
  /** The connection ended. */
  | 'EMULATOR_CLOSED';

export class EmulatorError extends WanscopeError {
  readonly code: EmulatorErrorCode;

  constructor(code: EmulatorErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** `a2b`: what is read from end a and written to end b. */
export type LinkDirection = 'a2b' | 'b2a';

/** Addresses of one end of a link. A "too big" for packets sent towards this end comes from them. */
export interface EndAddresses {
  readonly address4?: string;
  readonly address6?: string;
}

export interface LinkEnd extends EndAddresses {
  /** A name below /run/netns. */
  readonly netns: string;
  /** The TUN device made there; its name is free in that namespace. It is down and without addresses at first. */
  readonly device: string;
}

/** What a link does in one direction. Ratios are 0 to 1, null is off. */
export interface LinkSettings {
  readonly delayUs: number;
  /** Added to the delay: uniform in ±us, or normal with that standard deviation. Never below no delay at all. */
  readonly jitter: { readonly kind: 'uniform' | 'normal'; readonly us: number; readonly keepOrder: boolean } | null;
  readonly loss: number;
  /** Gilbert-Elliott: p good to bad, r bad to good; h and k the probability of passing in bad and in good. */
  readonly burst: { readonly p: number; readonly r: number; readonly h: number; readonly k: number } | null;
  readonly lossByDscp: Readonly<Record<string, number>> | null;
  readonly duplicate: number;
  /** Packets held back for longer, so that others overtake them. */
  readonly reorder: { readonly ratio: number; readonly extraUs: number } | null;
  readonly rate: { readonly bitsPerSecond: number; readonly queueBytes: number } | null;
  /** Larger packets are dropped; with `mtuTooBig` their sender is told. */
  readonly mtu: number | null;
  readonly mtuTooBig: boolean;
  /** Drops all, and takes the carrier from both ends while either direction is down. */
  readonly down: boolean;
  readonly blackhole: boolean;
  readonly corrupt: number;
}

/** Settings to replace; the others stay. A queue may be given in milliseconds at its rate instead of octets. */
export type LinkChange = Partial<Omit<LinkSettings, 'rate'>> & {
  readonly rate?: LinkSettings['rate'] | { readonly bitsPerSecond: number; readonly queueMs: number };
};

export const DROP_CAUSES = [
  'down',
  'blackhole',
  'mtu',
  'dscp',
  'burst',
  'loss',
  'queue',
  'corrupt',
  'pool',
  'device',
  'oversize',
] as const;
export type DropCause = (typeof DROP_CAUSES)[number];

/** Delay from arrival to writing. */
export interface DelayTruth {
  readonly min: number;
  readonly mean: number;
  readonly max: number;
}

export interface DelayDistribution extends DelayTruth {
  /** Within 0.1 %. */
  readonly p50: number;
  readonly p99: number;
}

/** Of each packet received exactly one is true: forwarded, dropped by one cause, or in flight. Copies are apart. */
export interface PacketCounts {
  readonly received: number;
  readonly receivedBytes: number;
  readonly forwarded: number;
  readonly forwardedBytes: number;
  readonly dropped: Readonly<Record<DropCause, number>>;
  /** Extra copies written. */
  readonly duplicated: number;
  /** Written after a packet of the same flow that had arrived later (RFC 4737). */
  readonly reordered: number;
  readonly syn: { readonly received: number; readonly dropped: number };
  readonly synAck: { readonly received: number; readonly dropped: number };
}

export interface FlowTruth extends PacketCounts {
  readonly protocol: 'icmp' | 'udp' | 'tcp' | 'other';
  readonly ipProtocol: number;
  /** 4 or 6; 0 when it is not IP. */
  readonly family: number;
  readonly src: string;
  readonly dst: string;
  /** For an ICMP echo its identifier. */
  readonly srcPort: number;
  readonly dstPort: number;
  readonly dscp: number;
  readonly icmpType: number | null;
  /** null while nothing was forwarded. */
  readonly delayUs: DelayTruth | null;
}

export interface DirectionTruth extends PacketCounts {
  readonly inFlight: number;
  /** ICMP errors sent for `mtuTooBig`. */
  readonly tooBigSent: number;
  /** Lost by the kernel before the emulator could read them, hence not in `received`: a flood beyond its speed. */
  readonly deviceDropped: number;
  readonly flowCount: number;
  /** Packets of flows beyond the table's bound; they are in the totals alone. */
  readonly overflowReceived: number;
  readonly delayUs: DelayDistribution | null;
  /** How long after its due time each packet was written: the emulator's own error. */
  readonly lateUs: DelayDistribution | null;
  /** Present when asked for. */
  readonly flows?: readonly FlowTruth[];
}

export type LinkTruth = Readonly<Record<LinkDirection, DirectionTruth>>;

export interface EmulatorHello {
  readonly version: number;
  readonly pid: number;
  readonly seed: number;
  /** Whether arrivals are stamped by the kernel, or (less exactly) when they are read. */
  readonly arrivals: 'kernel' | 'read';
}

export interface CaptureResult {
  readonly packets: number;
  /** Beyond the bound, or not taken by the file system. */
  readonly missed: number;
}

export interface EmulatorClientOptions {
  readonly clock?: Clock;
  /** How long to try to connect. */
  readonly connectWithinMs?: number;
  /** How long to wait for one answer. */
  readonly answerWithinMs?: number;
}

/** Where the built emulator is (`make -C lab/native`). */
export function emulatorProgram(): string {
  return fileURLToPath(new URL('../native/build/wan-emulator', import.meta.url));
}

/** Packets dropped by any cause. */
export function droppedTotal(counts: Pick<PacketCounts, 'dropped'>): number {
  return Object.values(counts.dropped).reduce((sum, count) => sum + count, 0);
}

const DEFAULT_CONNECT_WITHIN_MS = 5_000;
const DEFAULT_ANSWER_WITHIN_MS = 10_000;
const RETRY_MS = 20;
/** More than the truth of a thousand links with all their flows in a lab that fits one machine. */
const MAX_ANSWER_BYTES = 512 * 2 ** 20;
const NEWLINE = 0x0a;

type Answer = Readonly<Record<string, unknown>>;

interface Pending {
  readonly settle: (answer: Answer | EmulatorError) => void;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The answer's line as an object with `ok`; otherwise what is wrong with it. */
function parseAnswer(line: string): Answer | EmulatorError {
  let answer: unknown;
  try {
    answer = JSON.parse(line);
  } catch (cause) {
    return new EmulatorError('EMULATOR_PROTOCOL', `not JSON: ${line.slice(0, 80)}`, { cause });
  }
  if (!isObject(answer) || typeof answer['ok'] !== 'boolean') {
    return new EmulatorError('EMULATOR_PROTOCOL', `not an answer: ${line.slice(0, 80)}`);
  }
  if (answer['ok']) return answer;
  const reason = answer['error'];
  return new EmulatorError('EMULATOR_REFUSED', typeof reason === 'string' ? reason : 'no reason given');
}

// The emulator is built with this client and its shapes are tested against it: below the top only the kind is checked.
const isNumber = (value: unknown): value is number => typeof value === 'number';
const isArrivals = (value: unknown): value is EmulatorHello['arrivals'] => value === 'kernel' || value === 'read';
const isNames = (value: unknown): value is readonly string[] => Array.isArray(value);
const isSettings = (value: unknown): value is LinkSettings => isObject(value);
const isLinkTruths = (value: unknown): value is Readonly<Record<string, LinkTruth>> => isObject(value);

function member<T>(answer: Answer, name: string, isRight: (value: unknown) => value is T): T {
  const value = answer[name];
  if (!isRight(value)) throw new EmulatorError('EMULATOR_PROTOCOL', `answer without ${name}`);
  return value;
}

/** Causes that dropped nothing are not on the wire. */
function withAllCauses<T extends PacketCounts>(counts: T): T {
  const dropped = Object.fromEntries(
    DROP_CAUSES.map((cause) => [cause, (counts.dropped as Partial<Record<DropCause, number>>)[cause] ?? 0]),
  );
  return { ...counts, dropped };
}

function directionOf(direction: DirectionTruth): DirectionTruth {
  const counts = withAllCauses(direction);
  return direction.flows === undefined ? counts : { ...counts, flows: direction.flows.map(withAllCauses) };
}

async function connectOnce(path: string): Promise<Socket> {
  const socket = connect(path);
  await once(socket, 'connect');
  return socket;
}

export class EmulatorClient {
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #answerWithinMs: number;
  /** In the order of their requests. One that timed out stays, so that its late answer is not taken for the next. */
  readonly #pending: Pending[] = [];
  #chunks: Buffer[] = [];
  #chunkBytes = 0;
  #closed: EmulatorError | undefined;

  private constructor(socket: Socket, clock: Clock, answerWithinMs: number) {
    this.#socket = socket;
    this.#clock = clock;
    this.#answerWithinMs = answerWithinMs;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', (cause) => this.#end(new EmulatorError('EMULATOR_CLOSED', cause.message, { cause })));
    socket.on('close', () => this.#end(new EmulatorError('EMULATOR_CLOSED', 'the emulator closed the connection')));
  }

  /** Tries until somebody accepts at `socketPath`. Throws EmulatorError `EMULATOR_UNREACHABLE` after the deadline. */
  static async connect(socketPath: string, options: EmulatorClientOptions = {}): Promise<EmulatorClient> {
    const clock = options.clock ?? systemClock;
    const withinMs = options.connectWithinMs ?? DEFAULT_CONNECT_WITHIN_MS;
    const deadlineNs = clock.monoNs() + withinMs * 1e6;
    for (;;) {
      try {
        const socket = await connectOnce(socketPath);
        return new EmulatorClient(socket, clock, options.answerWithinMs ?? DEFAULT_ANSWER_WITHIN_MS);
      } catch (cause) {
        if (clock.monoNs() + RETRY_MS * 1e6 > deadlineNs) {
          throw new EmulatorError('EMULATOR_UNREACHABLE', `no emulator at ${socketPath}`, { cause });
        }
      }
      await new Promise<void>((resolve) => clock.after(RETRY_MS, resolve));
    }
  }

  async hello(): Promise<EmulatorHello> {
    const answer = await this.#request({ op: 'hello' });
    return {
      version: member(answer, 'version', isNumber),
      pid: member(answer, 'pid', isNumber),
      seed: member(answer, 'seed', isNumber),
      arrivals: member(answer, 'arrivals', isArrivals),
    };
  }

  /** Makes both devices. They are down and have no addresses; that is the caller's to do. */
  async addLink(link: string, a: LinkEnd, b: LinkEnd): Promise<void> {
    await this.#request({ op: 'add-link', link, a, b });
  }

  /** The ends have other addresses now: "too big" comes from them. */
  async setAddresses(link: string, a: EndAddresses, b: EndAddresses): Promise<void> {
    await this.#request({ op: 'set-addresses', link, a, b });
  }

  async removeLink(link: string): Promise<void> {
    await this.#request({ op: 'remove-link', link });
  }

  /** Changes all that is named, or, when one value cannot be, nothing. */
  async setLink(link: string, change: LinkChange, dir: LinkDirection | 'both' = 'both'): Promise<void> {
    await this.#request({ ...change, op: 'set', link, dir });
  }

  async settings(link: string): Promise<Readonly<Record<LinkDirection, LinkSettings>>> {
    const answer = await this.#request({ op: 'get', link });
    return { a2b: member(answer, 'a2b', isSettings), b2a: member(answer, 'b2a', isSettings) };
  }

  async links(): Promise<readonly string[]> {
    return member(await this.#request({ op: 'links' }), 'links', isNames);
  }

  /** What happened on `link`, or on all, since the start or the last reset; each direction as of one moment. */
  async truth(
    options: { readonly link?: string; readonly flows?: boolean } = {},
  ): Promise<ReadonlyMap<string, LinkTruth>> {
    const answer = await this.#request({ op: 'truth', ...options });
    const links = member(answer, 'links', isLinkTruths);
    return new Map(
      Object.entries(links).map(([name, { a2b, b2a }]) => [name, { a2b: directionOf(a2b), b2a: directionOf(b2a) }]),
    );
  }

  /** The truth of one link. */
  async linkTruth(link: string, options: { readonly flows?: boolean } = {}): Promise<LinkTruth> {
    const truth = (await this.truth({ link, ...options })).get(link);
    if (truth === undefined) throw new EmulatorError('EMULATOR_PROTOCOL', `answer without link ${link}`);
    return truth;
  }

  /** Forgets all counts. What is in flight at this moment is counted nowhere. */
  async resetTruth(): Promise<void> {
    await this.#request({ op: 'reset-truth' });
  }

  /**
   * Writes every packet of all links, or of one, to a pcapng file until `stopCapture`; `readCapture` reads it.
   *
   * @param file absolute path.
   */
  async startCapture(
    file: string,
    options: { readonly link?: string; readonly maxBytes?: number } = {},
  ): Promise<void> {
    await this.#request({ op: 'capture', file, ...options });
  }

  async stopCapture(): Promise<CaptureResult> {
    const answer = await this.#request({ op: 'stop-capture' });
    return { packets: member(answer, 'packets', isNumber), missed: member(answer, 'missed', isNumber) };
  }

  close(): void {
    this.#end(new EmulatorError('EMULATOR_CLOSED', 'closed'));
  }

  #request(request: object): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#closed !== undefined) {
        reject(this.#closed);
        return;
      }
      const cancelTimeout = this.#clock.after(this.#answerWithinMs, () =>
        reject(new EmulatorError('EMULATOR_TIMEOUT', `no answer within ${this.#answerWithinMs} ms`)),
      );
      this.#pending.push({
        settle: (answer) => {
          cancelTimeout();
          if (answer instanceof EmulatorError) reject(answer);
          else resolve(answer);
        },
      });
      this.#socket.write(`${JSON.stringify(request)}\n`);
    });
  }

  #take(chunk: Buffer): void {
    let rest = chunk;
    for (let end = rest.indexOf(NEWLINE); end !== -1; end = rest.indexOf(NEWLINE)) {
      const line = Buffer.concat([...this.#chunks, rest.subarray(0, end)]).toString();
      this.#chunks = [];
      this.#chunkBytes = 0;
      rest = rest.subarray(end + 1);
      const pending = this.#pending.shift();
      if (pending === undefined) {
        this.#end(new EmulatorError('EMULATOR_PROTOCOL', 'an answer to no request'));
        return;
      }
      pending.settle(parseAnswer(line));
    }
    this.#chunkBytes += rest.length;
    if (rest.length > 0) this.#chunks.push(rest);
    if (this.#chunkBytes > MAX_ANSWER_BYTES) {
      this.#end(new EmulatorError('EMULATOR_PROTOCOL', `an answer over ${MAX_ANSWER_BYTES} octets`));
    }
  }

  #end(error: EmulatorError): void {
    if (this.#closed !== undefined) return;
    this.#closed = error;
    this.#socket.destroy();
    this.#chunks = [];
    for (const pending of this.#pending.splice(0)) pending.settle(error);
  }
}
