/** A broker in memory with the two streams, for tests: messages are handed over at once, in order. */
import { decodeCommit, parseSubject, REPORT_STREAM, type Commit, type Identity, type SendMark } from '@wanscope/shared';
import type { Bus, BusHandlers, BusMessage } from '../bus.ts';

/** A message in a stream. */
export interface Stored {
  readonly subject: string;
  readonly data: Uint8Array;
  readonly seq: number;
  readonly storedAtMs: number;
  readonly mark?: SendMark | undefined;
}

export class MemoryBroker {
  readonly reports: Stored[] = [];
  readonly state = new Map<string, Stored>();
  readonly asked: string[] = [];
  readonly commits: Commit[] = [];
  readonly plans: { readonly identity: Identity; readonly bytes: Uint8Array }[] = [];
  readonly wallMs: () => number;
  created = 'first';
  /** As a broker whose stream of plans is gone or full. */
  refusesPlans = false;
  handlers: BusHandlers | undefined;
  /** Each stream counts its own. */
  #seq = { report: 0, hello: 0, plan: 0 };

  constructor(wallMs: () => number) {
    this.wallMs = wallMs;
  }

  publish(subject: string, data: Uint8Array, storedAtMs = this.wallMs()): void {
    this.store(subject, data, { storedAtMs });
  }

  /** @returns its position. */
  store(subject: string, data: Uint8Array, of: Partial<Pick<Stored, 'storedAtMs' | 'mark'>> = {}): number {
    const kind = parseSubject(subject)?.kind;
    const seq = (this.#seq[kind === 'report' || kind === 'plan' ? kind : 'hello'] += 1);
    const stored = { subject, data, seq, storedAtMs: of.storedAtMs ?? this.wallMs(), mark: of.mark };
    if (kind === 'report') {
      this.reports.push(stored);
      this.handlers?.onReport(messageOf(stored));
    } else {
      this.state.set(subject, stored);
      this.handlers?.onState(messageOf(stored));
    }
    return stored.seq;
  }

  /** The connection breaks and comes back; `wiped`: with an empty store. */
  restart(wiped = false): void {
    this.handlers?.onConnection(false);
    if (wiped) {
      this.reports.length = 0;
      this.state.clear();
      this.created = 'second';
      this.#seq = { report: 0, hello: 0, plan: 0 };
    }
    // What was put back as it once was goes on from there.
    this.#seq.report = this.reports.at(-1)?.seq ?? this.#seq.report;
    if (this.handlers !== undefined) this.serve(this.handlers);
  }

  serve(handlers: BusHandlers): void {
    this.handlers = handlers;
    handlers.onConnection(true);
    for (const stored of this.state.values()) handlers.onState(messageOf(stored));
    handlers.onStateCaughtUp();
    const after = handlers.onReportStream({
      name: REPORT_STREAM,
      created: this.created,
      firstSeq: this.reports[0]?.seq ?? 1,
      lastSeq: this.reports.at(-1)?.seq ?? 0,
    });
    for (const stored of this.reports) if (stored.seq > after) handlers.onReport(messageOf(stored));
    handlers.onReportsCaughtUp();
  }
}

export class MemoryBus implements Bus {
  readonly #broker: MemoryBroker;

  constructor(broker: MemoryBroker) {
    this.#broker = broker;
  }

  start(handlers: BusHandlers): void {
    this.#broker.serve(handlers);
  }

  publishPlan(identity: Identity, bytes: Uint8Array): Promise<number> {
    if (this.#broker.refusesPlans) return Promise.reject(new Error('no responders'));
    this.#broker.plans.push({ identity, bytes });
    return Promise.resolve(this.#broker.store(`wan.v1.plan.${identity.site}.${identity.probe}`, bytes));
  }

  keep(): Promise<number> {
    return Promise.reject(new Error('there is one collector'));
  }

  publishCommit(identity: Identity, bytes: Uint8Array): void {
    this.#broker.commits.push(decodeCommit(bytes, identity));
  }

  ask(identity: Identity, bytes: Uint8Array): void {
    const { want } = JSON.parse(Buffer.from(bytes).toString()) as { want: string };
    this.#broker.asked.push(`${want} ${identity.site}/${identity.probe}`);
  }

  request(identity: Identity, bytes: Uint8Array): Promise<Uint8Array> {
    this.ask(identity, bytes);
    return Promise.reject(new Error('nobody answers'));
  }

  close(): Promise<void> {
    this.#broker.handlers = undefined;
    return Promise.resolve();
  }
}

/** A stored message as it is handed over: straight, and nothing behind it. */
export function messageOf({ subject, data, seq, storedAtMs, mark }: Stored): BusMessage {
  const parsed = parseSubject(subject);
  return {
    subject,
    kind: parsed?.kind,
    identity: parsed?.identity,
    data,
    streamSeq: seq,
    storedAtMs,
    unread: 0,
    leaf: undefined,
    mark,
  };
}
