/** A reflector under a flood with made-up senders, held against what the kernel counted. `bench/flood.mjs` does it at speed. */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  BYSTANDER,
  FLOODED,
  FloodRange,
  makeRunDirectory,
  namespacesUnavailable,
  REFLECTOR_PORT,
  type FloodedCounts,
} from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const MEGABYTE = 1e6;
/** What a peer without a key may ask a second, and at once. */
const BUCKET = { perSecond: 4_000, burst: 2_000 };
const ONE_SOURCE = { packets: 20_000, perSecond: 8_000, sources: 1 };

describe.skipIf(namespacesUnavailable() !== undefined)('a reflector that is flooded', () => {
  const directory = makeRunDirectory();
  const cleanUps: (() => Promise<void>)[] = [];
  let range: FloodRange;

  beforeAll(async () => {
    range = new FloodRange(directory);
    cleanUps.push(() => range.stop());
    await range.start();
    // The load generator's first packets are not to wait for a neighbour.
    await range.flood({ packets: 1, perSecond: 1_000 });
    await settled();
  }, 240_000);

  afterAll(async () => {
    for (const cleanUp of cleanUps) await cleanUp();
    rmSync(directory, { recursive: true, force: true });
  }, 240_000);

  /** Counts of the probe that have caught up with those of the kernel. */
  async function settled(): Promise<FloodedCounts> {
    let last = await range.counts();
    await range.mesh.until('the probe to have told all that it saw', async () => {
      await sleep(1_500);
      const now = await range.counts();
      const isQuiet = now.dropped === last.dropped && now.overflow === last.overflow;
      // What the probe sends itself is reflected at its own rate all the time.
      const isCalm = now.reflected - last.reflected < 100;
      last = now;
      return isQuiet && isCalm && now.overflow === now.kernelOverflow;
    });
    return last;
  }

  async function underFlood(flood: Parameters<FloodRange['flood']>[0]): Promise<{
    readonly seconds: number;
    readonly flooded: number;
    readonly more: FloodedCounts;
  }> {
    const before = await settled();
    const { sent, seconds } = await range.flood(flood);
    const after = await settled();
    const more = Object.fromEntries(
      Object.entries(after).map(([key, value]) => [key, value - before[key as keyof FloodedCounts]]),
    ) as unknown as FloodedCounts;
    return { seconds, flooded: sent, more };
  }

  /** What the bucket of one source lets through in so many seconds, at most. */
  const passedBy = (seconds: number): number => BUCKET.burst + BUCKET.perSecond * (seconds + 0.5);

  test('answers one source within its bucket, and sends less than it got', async () => {
    let { seconds, flooded, more } = await underFlood(ONE_SOURCE);
    // On a busy machine the generator may be slower than the bucket fills.
    for (let again = 0; again < 4 && flooded < passedBy(seconds) + 1_000; again += 1) {
      ({ seconds, flooded, more } = await underFlood(ONE_SOURCE));
    }
    const ofOthers = more.sent;
    expect(more.reflected).toBeLessThanOrEqual(passedBy(seconds) + ofOthers + 40);
    expect(more.dropped + more.overflow).toBeGreaterThanOrEqual(flooded - passedBy(seconds));
    expect(more.dropped).toBeGreaterThan(0);
    expect(more.octetsOut).toBeLessThan(more.octetsIn);
  }, 240_000);

  test('accounts for each request of a hundred thousand senders: answered, dropped, or lost by the kernel, and grows by little', async () => {
    const { flooded, more } = await underFlood({ packets: 100_000, perSecond: 100_000 });
    const seen = more.reflected + more.dropped + more.overflow;
    // Those of the bystander are in it; what is counted of him is told by another probe, a report apart.
    expect(seen - flooded).toBeGreaterThanOrEqual(more.sent - 60);
    expect(seen - flooded).toBeLessThanOrEqual(more.sent + 60);
    expect(more.overflow).toBe(more.kernelOverflow);
    expect(more.octetsOut).toBeLessThanOrEqual(more.octetsIn);
    expect(more.residentBytes).toBeLessThan(48 * MEGABYTE);
  }, 240_000);

  test('answers its peer again as soon as it is over', async () => {
    await range.flood({ packets: 50_000, perSecond: 100_000 });
    const before = await settled();
    await sleep(2_000);
    const after = await settled();
    expect(after.sent).toBeGreaterThan(before.sent);
    expect(after.lost).toBe(before.lost);
  }, 240_000);

  test('does not answer another reflector, so that no two can be set on each other', async () => {
    const source = range.addressOf(BYSTANDER);
    const before = await range.counts(BYSTANDER);
    const { flooded, more } = await underFlood({
      ...{ packets: 1_000, perSecond: 1_000 },
      ...{ source, sources: 1, sourcePort: REFLECTOR_PORT },
    });
    const after = await range.counts(BYSTANDER);
    expect(more.dropped).toBe(flooded);
    expect(after.dropped).toBe(before.dropped);
    expect(range.addressOf(FLOODED)).not.toBe(source);
  }, 240_000);
});
