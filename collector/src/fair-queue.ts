/**
 * Jobs that run one at a time, fairly: addresses take turns, and the names that are tried from one address take turns. One client that
 * asks without end delays others by one job each, and fills its own queue only. When too much waits in all, the address with the most waiting
 * loses its latest job to one with fewer.
 */
export interface FairQueueBounds {
  /** Waiting of one name at one address. */
  readonly ofName: number;
  readonly ofAddress: number;
  readonly inAll: number;
}

interface Waiting {
  readonly run: () => Promise<void>;
  readonly drop: () => void;
}

export class FairQueue {
  /** By address, then by name; the one whose turn is next comes first. */
  readonly #queues = new Map<string, Map<string, Waiting[]>>();
  readonly #bounds: FairQueueBounds;
  #waiting = 0;
  #isRunning = false;

  constructor(bounds: FairQueueBounds) {
    this.#bounds = bounds;
  }

  /** @returns what the job returns; undefined when it does not run, since too much waits there or in all. */
  async add<T>(address: string, name: string, job: () => Promise<T>): Promise<T | undefined> {
    const names = this.#queues.get(address) ?? new Map<string, Waiting[]>();
    const queue = names.get(name) ?? [];
    const { ofName, ofAddress, inAll } = this.#bounds;
    if (queue.length >= ofName || sizeOf(names) >= ofAddress) return undefined;
    if (this.#waiting >= inAll && !this.#dropOneOfMore(sizeOf(names))) return undefined;
    return new Promise<T | undefined>((resolve, reject) => {
      queue.push({
        // One that throws before it is a promise fails alone, too.
        run: async () => Promise.resolve().then(job).then(resolve, reject),
        drop: () => resolve(undefined),
      });
      names.set(name, queue);
      this.#queues.set(address, names);
      this.#waiting += 1;
      if (!this.#isRunning) void this.#work();
    });
  }

  /** @returns false when no address has more waiting than one that has `fewer` would have. */
  #dropOneOfMore(fewer: number): boolean {
    let [most, ofMost]: [number, Map<string, Waiting[]> | undefined] = [fewer + 1, undefined];
    for (const names of this.#queues.values()) {
      const size = sizeOf(names);
      if (size > most) [most, ofMost] = [size, names];
    }
    if (ofMost === undefined) return false;
    const [name, queue] = [...ofMost].reduce((a, b) => (b[1].length > a[1].length ? b : a));
    queue.pop()!.drop();
    this.#waiting -= 1;
    if (queue.length === 0) ofMost.delete(name);
    return true;
  }

  async #work(): Promise<void> {
    this.#isRunning = true;
    for (let next = this.#take(); next !== undefined; next = this.#take()) await next.run();
    this.#isRunning = false;
  }

  #take(): Waiting | undefined {
    const turn = this.#queues.entries().next().value;
    if (turn === undefined) return undefined;
    const [address, names] = turn;
    const [name, queue] = names.entries().next().value!;
    const next = queue.shift();
    this.#waiting -= 1;
    names.delete(name);
    if (queue.length > 0) names.set(name, queue);
    this.#queues.delete(address);
    if (names.size > 0) this.#queues.set(address, names);
    return next;
  }
}

function sizeOf(names: ReadonlyMap<string, readonly Waiting[]>): number {
  let size = 0;
  for (const queue of names.values()) size += queue.length;
  return size;
}
