import { expect, test } from 'vitest';
import { DROP_CAUSES, type DirectionTruth, type DropCause, type LinkSettings } from '../emulator.ts';
import { starTopology } from '../topology.ts';
import { interfacesOf, type LinkKnowledge } from './interfaces.ts';

const none = { received: 0, dropped: 0 };
const noDrops = Object.fromEntries(DROP_CAUSES.map((cause) => [cause, 0])) as Record<DropCause, number>;

/** 100 packets of 84 octets came; what is dropped is not forwarded. */
function direction(dropped: Partial<Record<DropCause, number>>, duplicated = 0): DirectionTruth {
  const lost = Object.values(dropped).reduce((sum, count) => sum + count, 0);
  return {
    ...{ received: 100, receivedBytes: 8_400, forwarded: 100 - lost, forwardedBytes: (100 - lost) * 84 },
    ...{ dropped: { ...noDrops, ...dropped }, duplicated, reordered: 0, syn: none, synAck: none, inFlight: 0 },
    ...{ tooBigSent: 0, deviceDropped: 0, flowCount: 1, overflowReceived: 0, delayUs: null, lateUs: null },
  };
}

const settings: LinkSettings = {
  ...{ delayUs: 5_000, jitter: null, loss: 0, burst: null, lossByDscp: null, duplicate: 0, reorder: null },
  ...{ rate: null, mtu: null, mtuTooBig: false, down: false, blackhole: false, corrupt: 0 },
};

const topology = starTopology(2, 0);
const LINK = 'site-2--core-1';

const knowledge: LinkKnowledge = {
  truth: { a2b: direction({ corrupt: 7, loss: 3 }, 2), b2a: direction({ queue: 40, device: 5 }) },
  settings: { a2b: settings, b2a: { ...settings, rate: { bitsPerSecond: 2e6, queueBytes: 9_000 }, mtu: 1_400 } },
  receivePowerDbm: { a2b: -18.5 },
};

const read = (node: string, known: LinkKnowledge = knowledge) =>
  interfacesOf(topology, node, () => known).find(({ link }) => link === LINK)!;

test('spoilt packets are errors of the end that receives them; what the WAN loses nobody counts', () => {
  expect(read('core-1')).toMatchObject({
    index: 2,
    inErrors: 7,
    inDiscards: 0,
    // 100 less 7 spoilt and 3 lost, and 2 copies
    inPackets: 92,
    inOctets: 90 * 84,
  });
  expect(read('site-2').inErrors).toBe(0);
});

test('a full queue is the discards of the end that sends, and counts as sent', () => {
  // RFC 2863: ifOutUcastPkts includes those that were discarded.
  expect(read('core-1')).toMatchObject({ outDiscards: 40, outPackets: 100, outOctets: 8_400 });
  expect(read('site-2')).toMatchObject({ outDiscards: 0, inDiscards: 5, inPackets: 55 });
});

test('speed and MTU are those of what the end sends, and 10 Gbit/s and 1,500 without a limit', () => {
  expect(read('core-1')).toMatchObject({ bitsPerSecond: 2e6, mtu: 1_400 });
  expect(read('site-2')).toMatchObject({ bitsPerSecond: 10e9, mtu: 1_500 });
});

test('receive power belongs to the end that receives the direction', () => {
  expect(read('core-1').receivePowerDbm).toBe(-18.5);
  expect(read('site-2').receivePowerDbm).toBe(-5);
});

test('a cut in one direction is seen at both ends', () => {
  expect(read('core-1').up).toBe(true);
  const cut = { ...knowledge, settings: { ...knowledge.settings, a2b: { ...settings, down: true } } };
  expect([read('core-1', cut).up, read('site-2', cut).up]).toEqual([false, false]);
});

test('a router has the interfaces of its own links only, numbered as the links', () => {
  expect(interfacesOf(topology, 'core-1', () => knowledge).map(({ index }) => index)).toEqual([1, 2]);
  expect(interfacesOf(topology, 'site-1', () => knowledge).map(({ index }) => index)).toEqual([1]);
});
