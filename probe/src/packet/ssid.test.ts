import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { classOfSsid, SSID_CLASSES, ssidClassOf, SSIDS_OF_CLASS } from './ssid.ts';

test('every SSID of a class leads back to it, and all are SSIDs', () => {
  for (let ssidClass = 1; ssidClass <= SSID_CLASSES; ssidClass += 1) {
    for (const n of [0, 1, SSIDS_OF_CLASS - 1]) {
      const ssid = ssidClass + SSID_CLASSES * n;
      expect(ssid).toBeLessThanOrEqual(0xffff);
      expect(classOfSsid(ssid)).toBe(ssidClass);
    }
  }
  expect(classOfSsid(0)).toBeUndefined();
});

test('the class is of the ordered pair', () => {
  const [a, b] = [
    { site: 'hq', probe: 'edge' },
    { site: 'branch-1', probe: 'edge' },
  ] as const;
  const digest = createHash('sha256').update('hq/edge\nbranch-1/edge').digest('hex');
  expect(ssidClassOf(a, b)).toBe(1 + (Number.parseInt(digest.slice(0, 8), 16) % 251));
  expect(ssidClassOf(a, b)).not.toBe(ssidClassOf(b, a));
});
