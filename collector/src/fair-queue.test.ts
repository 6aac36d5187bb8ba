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
    await Promise.all(all.filter((job) => job !== undefined));
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

  it('is full for one name at 32, for one address at 64, and takes those of others still', () => {
    const queue = new FairQueue(BOUNDS);
    const never = (): Promise<void> => new Promise(() => undefined);
    const add = (address: string, name: string): boolean => queue.add(address, name, never) !== undefined;
    // The first is under way and waits no more.
    expect(Array.from({ length: 40 }, () => add('g', 'alice')).filter(Boolean)).toHaveLength(33);
    expect(Array.from({ length: 40 }, (_, n) => add('g', `name-${n}`)).filter(Boolean)).toHaveLength(32);
    expect(add('h', 'alice')).toBe(true);
  });

  it('goes on after a job that failed', async () => {
    const queue = new FairQueue(BOUNDS);
    const failed = queue.add('g', 'a', () => Promise.reject(new Error('no')));
    const next = queue.add('g', 'a', () => Promise.resolve('yes'));
    await expect(failed).rejects.toThrow('no');
    expect(await next).toBe('yes');
  });
});
