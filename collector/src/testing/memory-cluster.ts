/** Brokers of a cluster in memory, for several collectors: reports go to the stream of their partition, puts compare revisions. */
import { parseSubject, partitionOf, reportStreamOf, unseal, type Identity } from '@wanscope/shared';
import { WrittenOver, type Bus, type BusHandlers } from '../bus.ts';
import { messageOf, type Stored } from './memory-bus.ts';

export class MemoryCluster {
  readonly partitions: number;
  readonly wallMs: () => number;
  readonly state = new Map<string, Stored>();
  readonly kept = new Map<string, Stored>();
  /** Of each plan that was taken: by whom. */
  readonly planned: { readonly partition: number; readonly identity: Identity; readonly bytes: Uint8Array }[] = [];
  readonly asked: string[] = [];
  readonly #reports: Stored[][];
  readonly #served = new Map<number, BusHandlers>();
  #seq = 0;

  constructor(partitions: number, wallMs: () => number) {
    this.partitions = partitions;
    this.wallMs = wallMs;
    this.#reports = Array.from({ length: partitions }, () => []);
  }

  publish(subject: string, data: Uint8Array): void {
    const parsed = parseSubject(subject);
    if (parsed?.kind !== 'report') {
      this.putState(subject, data);
      return;
    }
    const partition = partitionOf(parsed.identity.site, this.partitions);
    const mapped = `wan.v1.part.${partition}.${parsed.identity.site}.${parsed.identity.probe}`;
    this.publishInto(partition, mapped, data);
  }

  /** Into the stream of a partition, whatever it is. */
  publishInto(partition: number, subject: string, data: Uint8Array): void {
    const stored = this.#stored(subject, data);
    this.#reports[partition]!.push(stored);
    this.#served.get(partition)?.onReport(messageOf(stored));
  }

  putState(subject: string, data: Uint8Array, after?: number): number {
    const seq = this.#put(this.state, subject, data, after);
    for (const handlers of this.#served.values()) handlers.onState(messageOf(this.state.get(subject)!));
    return seq;
  }

  keep(key: string, data: Uint8Array, after?: number): number {
    const revision = this.#put(this.kept, key, data, after);
    for (const handlers of this.#served.values()) handlers.onKept?.({ key, data, revision });
    return revision;
  }

  connect(partition: number, handlers: BusHandlers): void {
    this.#served.set(partition, handlers);
    handlers.onConnection(true);
    for (const [key, { data, seq: revision }] of this.kept) handlers.onKept?.({ key, data, revision });
    handlers.onKeptCaughtUp?.('first');
    for (const stored of this.state.values()) handlers.onState(messageOf(stored));
    handlers.onStateCaughtUp();
    const reports = this.#reports[partition]!;
    const facts = { name: reportStreamOf(partition), created: 'first', firstSeq: 1, lastSeq: reports.at(-1)?.seq ?? 0 };
    const after = handlers.onReportStream(facts);
    for (const stored of reports) if (stored.seq > after) handlers.onReport(messageOf(stored));
    handlers.onReportsCaughtUp();
  }

  disconnect(partition: number): void {
    this.#served.get(partition)?.onConnection(false);
    this.#served.delete(partition);
  }

  /** A collector's connection ends, and it is there again. */
  reconnect(partition: number): void {
    const handlers = this.#served.get(partition);
    if (handlers === undefined) throw new Error(`collector ${partition} is not connected`);
    this.disconnect(partition);
    this.connect(partition, handlers);
  }

  isConnected(partition: number): boolean {
    return this.#served.has(partition);
  }

  #put(into: Map<string, Stored>, key: string, data: Uint8Array, after: number | undefined): number {
    if (after !== undefined && (into.get(key)?.seq ?? 0) !== after) throw new WrittenOver('wrong last sequence');
    const stored = this.#stored(key, data);
    into.set(key, stored);
    return stored.seq;
  }

  #stored(subject: string, data: Uint8Array): Stored {
    return { subject, data, seq: (this.#seq += 1), storedAtMs: this.wallMs() };
  }
}

/** One collector's connection; cut, it does nothing and the collector is not told, as where a line is silent. */
export class MemoryClusterBus implements Bus {
  isCut = false;
  readonly #cluster: MemoryCluster;
  readonly #partition: number;
  #handlers: BusHandlers | undefined;

  constructor(cluster: MemoryCluster, partition: number) {
    this.#cluster = cluster;
    this.#partition = partition;
  }

  start(handlers: BusHandlers): void {
    this.#handlers = {
      ...handlers,
      onReport: (message) => this.#whole(() => handlers.onReport(message)),
      onState: (message) => this.#whole(() => handlers.onState(message)),
      onKept: (value) => this.#whole(() => handlers.onKept?.(value)),
    };
    this.#cluster.connect(this.#partition, this.#handlers);
  }

  /** Reads everything anew. */
  reconnect(): void {
    this.#cluster.disconnect(this.#partition);
    if (this.#handlers !== undefined) this.#cluster.connect(this.#partition, this.#handlers);
  }

  async publishPlan(identity: Identity, bytes: Uint8Array, afterSeq?: number): Promise<number> {
    await this.#reached();
    const seq = this.#cluster.putState(`wan.v1.plan.${identity.site}.${identity.probe}`, bytes, afterSeq);
    this.#cluster.planned.push({ partition: this.#partition, identity, bytes });
    return seq;
  }

  async keep(key: string, bytes: Uint8Array, after?: number): Promise<number> {
    await this.#reached();
    return this.#cluster.keep(key, bytes, after);
  }

  publishCommit(): void {
    // Nobody listens.
  }

  ask(identity: Identity, bytes: Uint8Array): void {
    const { want } = JSON.parse(Buffer.from(unseal(bytes).body).toString()) as { want: string };
    this.#cluster.asked.push(`${this.#partition}: ${want} ${identity.site}/${identity.probe}`);
  }

  request(): Promise<Uint8Array> {
    return Promise.reject(new Error('nobody answers'));
  }

  close(): Promise<void> {
    this.#cluster.disconnect(this.#partition);
    return Promise.resolve();
  }

  #whole(run: () => void): void {
    if (!this.isCut) run();
  }

  async #reached(): Promise<void> {
    await Promise.resolve();
    if (this.isCut || !this.#cluster.isConnected(this.#partition)) throw new Error('TIMEOUT');
  }
}
