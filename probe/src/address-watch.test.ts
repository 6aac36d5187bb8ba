import { expect, test } from 'vitest';
import { AddressWatch } from './address-watch.ts';

test('takes a list that cannot be read for no change', () => {
  let addresses: string[] | undefined = ['192.0.2.1'];
  const watch = new AddressWatch(() => addresses);
  addresses = undefined;
  expect([watch.look(), watch.isGoing('192.0.2.1'), watch.isGone('192.0.2.1')]).toEqual([undefined, false, false]);
  addresses = [];
  expect([watch.isGoing('192.0.2.1'), watch.look()]).toEqual([true, { gone: ['192.0.2.1'], come: [] }]);
});

test('tells what went and what came, once', () => {
  let addresses = ['192.0.2.1', '2001:db8::1'];
  const watch = new AddressWatch(() => addresses);
  expect(watch.look()).toBeUndefined();
  addresses = ['2001:db8::1', '192.0.2.9'];
  expect([watch.isGoing('192.0.2.1'), watch.isGoing('2001:db8:0::1'), watch.isGoing('198.51.100.1')]).toEqual([
    true,
    false,
    false,
  ]);
  expect(watch.look()).toEqual({ gone: ['192.0.2.1'], come: ['192.0.2.9'] });
  expect(watch.look()).toBeUndefined();
  expect([watch.isGone('192.0.2.1'), watch.isGone('192.0.2.9'), watch.isGone('198.51.100.1')]).toEqual([
    true,
    false,
    false,
  ]);
  addresses = ['192.0.2.1', '192.0.2.9'];
  expect(watch.look()).toEqual({ gone: ['2001:db8::1'], come: ['192.0.2.1'] });
  expect(watch.isGone('192.0.2.1')).toBe(false);
  // In whatever spelling the plan has it.
  expect(watch.isGone('2001:DB8:0::1')).toBe(true);
});
