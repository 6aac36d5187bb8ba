import { describe, expect, it } from 'vitest';
import { FairQueue } from './fair-queue.ts';

const BOUNDS = { ofName: 32, ofAddress: 64, inAll: 512 };

describe('the fair queue', () => {
  /** Adds jobs that note when they ran, as `address/name` in order. */
  async function order(jobs: readonly (readonly [address: string, name: string])[]): Promise<(string | undefined)[]> {
    const queue = new FairQueue(BOUNDS);
    const ran: string[] = [];
    const all = jobs.map(([address, name]) =>
      queue.add(address, name, () => {
        ran.push(`${address}/${name}`);
        return Promise.resolve();
      }),
    );
    await Promise.all(all);
    return ran;
  }

  it('lets addresses take turns: a newcomer waits for one job of each, not for all of them', async () => {
    const guesses = Array.from({ length: 24 }, () => ['g', 'alice'] as const);
    const ran = await order([...guesses, ['h', 'alice']]);
    // The first runs at once; then one of the rest, then the newcomer.
    expect(ran.indexOf('h/alice')).toBeLessThanOrEqual(2);
    expect(ran).toHaveLength(25);
  });

  it('lets the names of one address take turns', async () => {
    const guesses = Array.from({ length: 24 }, () => ['g', 'alice'] as const);
    const ran = await order([...guesses, ['g', 'bob']]);
    expect(ran.indexOf('g/bob')).toBeLessThanOrEqual(2);
  });

  const never = (): Promise<'ran'> => new Promise(() => undefined);
  /** Jobs of these that were refused, or lost their place. */
  async function refusedOf(jobs: readonly Promise<unknown>[]): Promise<number[]> {
    const settled = new Set<number>();
    for (const [i, job] of jobs.entries()) void job.then(() => settled.add(i));
    await Promise.resolve().then(() => undefined);
    await new Promise(setImmediate);
    return [...settled];
  }

  it('is full for one name at 32, for one address at 64, and takes those of others still', async () => {
    const queue = new FairQueue(BOUNDS);
    // The first is under way and waits no more.
    const alice = Array.from({ length: 40 }, () => queue.add('g', 'alice', never));
    expect(await refusedOf(alice)).toEqual([33, 34, 35, 36, 37, 38, 39]);
    const names = Array.from({ length: 40 }, (_, n) => queue.add('g', `name-${n}`, never));
    expect(await refusedOf(names)).toHaveLength(8);
    expect(await refusedOf([queue.add('h', 'alice', never)])).toEqual([]);
  });

  it('when full takes a place from the address with the most waiting, and the latest of it', async () => {
    const queue = new FairQueue(BOUNDS);
    const first = queue.add('first', 'x', never);
    const guesses = Array.from({ length: 512 }, (_, n) => queue.add(`g${n >> 6}`, `name-${(n >> 5) & 1}`, never));
    expect(await refusedOf([first, ...guesses])).toEqual([]);
    const newcomers = Array.from({ length: 8 }, (_, n) => queue.add(`h${n}`, 'alice', never));
    expect(await refusedOf(newcomers)).toEqual([]);
    // One of each of the eight: by then all have 63.
    expect((await refusedOf(guesses)).map((n) => n >> 6)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  it('refuses one more of an address that has as many waiting as any other', async () => {
    const queue = new FairQueue({ ...BOUNDS, inAll: 4 });
    const all = ['first', 'a', 'b', 'c', 'd', 'a'].map((address) => queue.add(address, 'x', never));
    expect(await refusedOf(all)).toEqual([5]);
  });

  it('goes on after a job that failed', async () => {
    const queue = new FairQueue(BOUNDS);
    const failed = queue.add('g', 'a', () => Promise.reject(new Error('no')));
    const next = queue.add('g', 'a', () => Promise.resolve('yes'));
    await expect(failed).rejects.toThrow('no');
    expect(await next).toBe('yes');
  });
});
