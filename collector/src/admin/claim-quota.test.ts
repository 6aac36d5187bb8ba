import { expect, test } from 'vitest';
import { ClaimQuota } from './claim-quota.ts';

test('one claim is heard ten times at once and every ten seconds; others are heard meanwhile', () => {
  const quota = new ClaimQuota();
  let heard = 0;
  // A thousand requests in a minute.
  for (let at = 0; at < 1_000; at += 1) if (quota.take('hq/greedy', at * 60)) heard += 1;
  // Ten, and five of 59.94 s.
  expect(heard).toBe(15);
  expect(quota.take('hq/honest', 60_000)).toBe(true);
  expect(quota.take('hq/greedy', 160_000)).toBe(true);
});
