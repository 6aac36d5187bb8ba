import { expect, test } from 'vitest';
import { DROP_CAUSES, type DirectionTruth, type DropCause, type FlowTruth, type LinkTruth } from './emulator.ts';
import { pathTruth, truthBetween } from './path-truth.ts';
import { parallelTopology } from './topology.ts';

const { links } = parallelTopology(2, 0);
const A = { ipv4: '198.18.7.1', ipv6: 'fdc8:5ca9:e:7::1' };
const B = { ipv4: '198.18.8.1', ipv6: 'fdc8:5ca9:e:8::1' };

const noDrops = Object.fromEntries(DROP_CAUSES.map((cause) => [cause, 0])) as Record<DropCause, number>;
const none = { received: 0, dropped: 0 };

function udp(srcPort: number, received: number, loss = 0): FlowTruth {
  return {
    ...{ protocol: 'udp', ipProtocol: 17, family: 4, src: A.ipv4, dst: B.ipv4, srcPort, dstPort: 862, dscp: 0 },
    ...{ received, receivedBytes: received * 100, forwarded: received - loss, forwardedBytes: (received - loss) * 100 },
    ...{ dropped: { ...noDrops, loss }, duplicated: 0, reordered: 0, syn: none, synAck: none },
    ...{ icmpType: null, delayUs: null },
  };
}

const quiet: DirectionTruth = {
  ...{ received: 0, receivedBytes: 0, forwarded: 0, forwardedBytes: 0, dropped: noDrops, duplicated: 0, reordered: 0 },
  ...{ syn: none, synAck: none, inFlight: 0, tooBigSent: 0, deviceDropped: 0, flowCount: 0, overflowReceived: 0 },
  ...{ delayUs: null, lateUs: null, flows: [] },
};

/** Truth of all links, in which these flows were seen going from a to b. */
function truthWith(seen: Readonly<Record<string, readonly FlowTruth[]>>): ReadonlyMap<string, LinkTruth> {
  return new Map(links.map(({ name }) => [name, { a2b: { ...quiet, flows: seen[name] ?? [] }, b2a: quiet }]));
}

test('each flow tells the links it took, and its losses wherever they were', () => {
  // 10 packets of port 1 by core-2, of which core-2 loses 2; 5 of port 2 by core-4. The last link is written b first.
  const truth = new Map(
    truthWith({
      'site-1--core-west': [udp(1, 10), udp(2, 5)],
      'core-west--core-2': [udp(1, 10)],
      'core-2--core-east': [udp(1, 10, 2)],
      'core-west--core-4': [udp(2, 5)],
      'core-4--core-east': [udp(2, 5)],
    }),
  ).set('site-2--core-east', { a2b: quiet, b2a: { ...quiet, flows: [udp(1, 8), udp(2, 5)] } });
  const [path, ...others] = pathTruth(
    links,
    truth,
    { router: 'site-1', addresses: A },
    { router: 'site-2', addresses: B },
  );
  expect(others).toEqual([]);
  expect(path).toMatchObject({ protocol: 'udp', family: 4, sent: 15, arrived: 13, dropped: { loss: 2 } });
  expect(path!.flows.map(({ srcPort, sent, arrived, ways }) => ({ srcPort, sent, arrived, ways }))).toEqual([
    {
      ...{ srcPort: 1, sent: 10, arrived: 8 },
      ways: [['site-1--core-west', 'core-west--core-2', 'core-2--core-east', 'site-2--core-east']],
    },
    {
      ...{ srcPort: 2, sent: 5, arrived: 5 },
      ways: [['site-1--core-west', 'core-west--core-4', 'core-4--core-east', 'site-2--core-east']],
    },
  ]);
});

test('a flow that was rerouted has two ways', () => {
  const truth = truthWith({
    'site-1--core-west': [udp(1, 4)],
    'core-west--core-1': [udp(1, 3)],
    'core-west--core-2': [udp(1, 1)],
  });
  const [path] = pathTruth(links, truth, { router: 'site-1', addresses: A }, { router: 'site-2', addresses: B });
  expect(path!.flows[0]!.ways).toEqual([
    ['site-1--core-west', 'core-west--core-1'],
    ['site-1--core-west', 'core-west--core-2'],
  ]);
});

test('the way back is another path', () => {
  const truth = truthWith({ 'site-1--core-west': [udp(1, 4)] });
  expect(pathTruth(links, truth, { router: 'site-2', addresses: B }, { router: 'site-1', addresses: A })).toEqual([]);
});

test('of a link only what passes between the two ends is kept, so that hours of other flows take no room', () => {
  const other = { ...udp(3, 7), dst: '198.18.9.1' };
  const kept = truthBetween(
    { a2b: { ...quiet, flows: [udp(1, 10), other] }, b2a: { ...quiet, flows: [other] } },
    { router: 'site-1', addresses: A },
    { router: 'site-2', addresses: B },
  );
  expect([kept.a2b.flows, kept.b2a.flows]).toEqual([[udp(1, 10)], []]);
});
