import { expect, test } from 'vitest';
import { ClaimQuota } from './claim-quota.ts';

const GREEDY = { site: 'hq', probe: 'greedy' };
const HONEST = { site: 'hq', probe: 'honest' };

test('one claim is heard ten times at once and every ten seconds; others are heard meanwhile', () => {
  const quota = new ClaimQuota();
  let heard = 0;
  // A thousand requests in a minute.
  for (let at = 0; at < 1_000; at += 1) if (quota.take(GREEDY, true, at * 60)) heard += 1;
  // Ten, and five of 59.94 s.
  expect(heard).toBe(15);
  expect(quota.take(HONEST, true, 60_000)).toBe(true);
  expect(quota.take(GREEDY, true, 160_000)).toBe(true);
});

test('two hundred thousand made-up names do not use up what there is for real ones, in their site or elsewhere', () => {
  const quota = new ClaimQuota();
  let heard = 0;
  for (let i = 0; i < 200_000; i += 1) {
    // 4,000 a second, half of them of one site and the others of a hundred.
    const site = i % 2 === 0 ? 'hq' : `made-up-${i % 200}`;
    if (quota.take({ site, probe: `p${i}` }, false, i / 4)) heard += 1;
  }
  // 101 sites, ten at once and one every two seconds for 50 s.
  expect(heard).toBeGreaterThanOrEqual(101 * 34);
  expect(heard).toBeLessThanOrEqual(101 * 35);
  for (let i = 0; i < 200; i += 1) expect(quota.take({ site: 'hq', probe: `r${i}` }, true, 50_000)).toBe(true);
  expect(quota.take({ site: 'new', probe: 'r1' }, true, 50_000)).toBe(true);
});

test('all the names of one site, which its leaf node can ask in, leave the other sites what is theirs', () => {
  const quota = new ClaimQuota();
  let heard = 0;
  for (let i = 0; i < 10_000; i += 1) if (quota.take({ site: 'hq', probe: `r${i}` }, true, i / 10)) heard += 1;
  // 200 at once and 20 of a second; the last request comes 0.1 ms before it is over.
  expect(heard).toBe(219);
  expect(quota.take({ site: 'branch', probe: 'r1' }, true, 1_000)).toBe(true);
});

test('drops full buckets when the table is full, so that further names get one of their own', () => {
  const quota = new ClaimQuota();
  for (let i = 0; i < 20_000; i += 1) quota.take({ site: `s${i}`, probe: 'r1' }, true, 0);
  // The next ones share a bucket of ten for now.
  const shared = Array.from({ length: 20 }, (_, i) => quota.take({ site: `t${i}`, probe: 'r1' }, true, 2_000));
  expect(shared.filter(Boolean)).toHaveLength(10);
  // Ten seconds fill the bucket of a claim that asked once.
  const later = Array.from({ length: 20 }, (_, i) => quota.take({ site: `t${i}`, probe: 'r1' }, true, 12_000));
  expect(later.filter(Boolean)).toHaveLength(20);
});
