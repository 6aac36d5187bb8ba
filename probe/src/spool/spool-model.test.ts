/** The spool against a model of everything around it: a broker that forgets, a collector that lags, a process that is killed. */
import { expect, it } from 'vitest';
import type { BootCommit, SendMark } from '@wanscope/shared';
import { FakeClock, Random } from '@wanscope/shared/testing';
import { DEFAULT_SPOOL_LIMITS, Spool, type SpoolLimits } from './spool.ts';
import { MemoryFiles } from './testing/memory-files.ts';

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const settle = async (): Promise<void> => {
  for (let i = 0; i < 60; i += 1) await Promise.resolve();
};
const DICTIONARY = 'd'.repeat(16);

class World {
  readonly random: Random;
  readonly clock = new FakeClock();
  readonly limits: SpoolLimits;
  files = new MemoryFiles();
  spool!: Spool;
  boots = 0;
  kills = 0;
  closed = 0;
  #boot = '';
  #seq = 0;
  #interval = 0;
  /** What the broker holds, from position `first` on. */
  #stream = { created: 1, first: 1, messages: [] as { text: string; mark: SendMark }[] };
  #readTo = 0;
  #lastRead: SendMark | null = null;
  readonly counted = new Set<string>();

  constructor(seed: number, limits: Partial<SpoolLimits>) {
    this.random = new Random(seed);
    this.limits = { ...DEFAULT_SPOOL_LIMITS, ...limits };
  }

  async start(): Promise<void> {
    this.boots += 1;
    this.#boot = this.boots.toString(16).padStart(16, '0');
    this.#seq = this.#interval = 0;
    this.spool = new Spool({
      ...{ bootId: this.#boot, clock: this.clock, log, files: this.files, limits: this.limits },
      pause: () => Promise.resolve(),
    });
    this.spool.useDictionary(DICTIONARY, Buffer.from('d'));
    this.spool.openInterval(0);
    void this.spool.open();
    await settle();
    void this.spool.recover();
    await settle();
  }

  async close(): Promise<void> {
    this.clock.advance(10_000);
    this.spool.openInterval(this.#interval + 1);
    const reports = Array.from({ length: 1 + this.random.int(2) }, () => {
      this.#seq += 1;
      const bytes = Buffer.from(`${this.#boot} ${this.#seq}`.padEnd(200, ' '));
      return { seq: this.#seq, bytes, dictionaryHash: DICTIONARY, dueNs: 0 };
    });
    this.closed += reports.length;
    this.spool.closeInterval(this.#interval, reports);
    this.#interval += 1;
    await settle();
  }

  /** Sends up to `most`; the connection fails under some, of which the broker has taken some, and some get lost behind it. */
  async send(most: number, goesWrong: boolean): Promise<void> {
    for (let i = 0; i < most; i += 1) {
      const report = this.spool.take(Infinity, -Infinity, false);
      if (report === undefined) return;
      const bytes = await this.spool.read(report);
      if (bytes === undefined) continue;
      const fate = goesWrong ? this.random.int(6) : 5;
      if (fate === 0) {
        this.spool.putBack(report);
        continue;
      }
      const mark = this.spool.nextMark();
      if (fate !== 2) this.#stream.messages.push({ text: Buffer.from(bytes).toString().trim(), mark });
      if (fate === 1) this.spool.putBack(report);
      else this.spool.sent(report, mark);
    }
  }

  read(most: number): void {
    for (let i = 0; i < most && this.#readTo < this.#last; i += 1) {
      this.#readTo += 1;
      const message = this.#stream.messages[this.#readTo - this.#stream.first];
      if (message === undefined) continue;
      this.counted.add(message.text);
      this.#lastRead = message.mark;
    }
  }

  /** The broker's store is gone: the collector notices and begins at the first message. */
  wipe(): void {
    this.#stream = { created: this.#stream.created + 1, first: 1, messages: [] };
    this.#readTo = 0;
  }

  /** Its messages are gone, its numbers go on. */
  purge(): void {
    this.#stream.first = this.#last + 1;
    this.#stream.messages = [];
  }

  commit(): void {
    const boots = (this.spool.spans() ?? []).map(({ bootId, first, last }): BootCommit => {
      const has = (seq: number): boolean => this.counted.has(`${bootId} ${seq}`);
      let upTo = first - 1;
      while (upTo < last && has(upTo + 1)) upTo += 1;
      const beyond = Array.from({ length: last - upTo }, (_unused, at) => upTo + 1 + at);
      const ranges = (seqs: readonly number[]): [number, number][] => seqs.map((seq) => [seq, seq]);
      return {
        ...{ bootId, upTo, rejected: [] },
        counted: ranges(beyond.filter(has)),
        missing: ranges(beyond.filter((seq) => !has(seq))),
      };
    });
    const stream = { created: String(this.#stream.created), readTo: this.#readTo };
    this.spool.commit({ v: 1, site: 'a', probe: 'p', stream, boots, lastRead: this.#lastRead });
  }

  async kill(powerCut: boolean): Promise<void> {
    this.kills += 1;
    this.files = this.files.after(powerCut ? this.random : undefined);
    await this.start();
  }

  check(): void {
    const { produced, committed, ledgered, reports } = this.spool.counts()!;
    expect(produced).toBe(committed + ledgered + reports);
    expect(committed).toBeLessThanOrEqual(this.counted.size);
  }

  /** Everything works until nothing is left in the spool. */
  async finish(): Promise<void> {
    this.files.fault = () => undefined;
    for (let i = 0; i < 30; i += 1) {
      if (i < 3) await this.close();
      this.spool.setConnected(true);
      await settle();
      await this.send(Infinity, false);
      this.read(Infinity);
      this.commit();
      this.check();
    }
    expect(this.spool.counts()!.reports).toBe(0);
  }

  get #last(): number {
    return this.#stream.first + this.#stream.messages.length - 1;
  }
}

async function run(world: World, faults: readonly ('kill' | 'power' | 'cut' | 'disk')[]): Promise<void> {
  const { random } = world;
  await world.start();
  for (let step = 0; step < 120; step += 1) {
    switch (random.int(12)) {
      case 0:
      case 1:
      case 2:
        await world.close();
        break;
      case 3:
      case 4:
        await world.send(random.int(6), true);
        break;
      case 5:
        world.read(random.int(5));
        break;
      case 6:
        world.commit();
        break;
      case 7:
        if (random.int(4) === 0) world.wipe();
        else if (random.int(3) === 0) world.purge();
        break;
      case 8:
      case 9:
        world.spool.setConnected(random.int(3) > 0);
        break;
      case 10:
        if (faults.includes('disk'))
          world.files.fault =
            random.int(2) === 0 ? () => undefined : (what) => (what === 'append' ? 'ENOSPC' : undefined);
        break;
      default:
        // A process that spools in memory is outside the promise.
        if (world.spool.inMemory || random.int(3) > 0) break;
        if (faults.includes('cut') && random.int(2) === 0) {
          world.files.octetsLeft = random.int(600);
          await world.close();
          await world.kill(false);
        } else if (faults.includes('power')) await world.kill(true);
        else if (faults.includes('kill')) await world.kill(false);
    }
    await settle();
    world.check();
  }
  await world.finish();
}

it.each(Array.from({ length: 25 }, (_unused, seed) => seed))(
  'every closed interval is counted once or ledgered, whatever fails around the spool (seed %i)',
  async (seed) => {
    const world = new World(seed, {});
    await run(world, ['kill', 'disk']);
    const { produced, committed, ledgeredBy } = world.spool.counts()!;
    // Each kill found one interval open; nothing else adds to what was closed.
    expect(produced).toBe(world.closed + world.kills);
    expect(ledgeredBy.get('killed') ?? 0).toBe(world.kills);
    expect(committed).toBe(world.counted.size);
  },
);

it.each(Array.from({ length: 25 }, (_unused, seed) => seed))(
  'so it is when writes are cut and the power goes (seed %i)',
  async (seed) => {
    const world = new World(100 + seed, {});
    await run(world, ['power', 'cut']);
    const { committed, ledgeredBy } = world.spool.counts()!;
    expect(committed).toBe(world.counted.size);
    // Two are open while one closes.
    expect(ledgeredBy.get('killed') ?? 0).toBeLessThanOrEqual(2 * world.kills);
  },
);

it.each(Array.from({ length: 15 }, (_unused, seed) => seed))(
  'so it is when the spool is full and its oldest are dropped (seed %i)',
  async (seed) => {
    const world = new World(200 + seed, { maxBytes: 4_000, maxAgeMs: 300_000 });
    await run(world, ['kill', 'disk']);
    const { produced, committed } = world.spool.counts()!;
    expect(produced).toBe(world.closed + world.kills);
    expect(committed).toBe(world.counted.size);
  },
);
