import { NS_PER_MS, NS_PER_S } from '@wanscope/shared';
import { FakeClock, plannedOf, Random } from '@wanscope/shared/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HOP_LIMITS, type PacketEngine } from '../net/packet-engine.ts';
import { SendBudget } from '../usage.ts';
import { RouteTracer, type RouteNews } from './tracer.ts';

const DESTINATION = '192.0.2.9';
const ROUND_S = 5;
const RTT_MS = 10;

/** Addresses by distance; undefined is silent. The flow decides. */
type Way = (flow: number) => readonly (string | undefined)[];

describe('the route tracer', () => {
  let clock: FakeClock;
  let way: Way;
  /** Streams that are open now, and the most that one flow had at once. */
  let open: Map<number, number>;
  let mostOfAFlow: number;
  let tracer: RouteTracer;

  /** A network whose routers answer after 10 ms. */
  const engine: Pick<PacketEngine, 'open' | 'exploredFamilies' | 'sendsUdp'> = {
    exploredFamilies: ['ipv4'],
    sendsUdp: true,
    open: ({ flow = 40_000 }, events) => {
      let isOpen = true;
      open.set(flow, (open.get(flow) ?? 0) + 1);
      mostOfAFlow = Math.max(mostOfAFlow, open.get(flow)!);
      return {
        flow,
        send: (wireSeq, dueNs) => {
          clock.after((dueNs - clock.monoNs()) / NS_PER_MS, () => {
            if (!isOpen) return;
            const sentNs = clock.monoNs();
            events.sent(wireSeq, sentNs, 0, 0);
            const ttl = wireSeq % HOP_LIMITS;
            const hops = way(flow);
            const address = ttl === 0 ? DESTINATION : hops[Math.min(ttl, hops.length) - 1];
            if (address === undefined) return;
            clock.after(RTT_MS, () => {
              if (!isOpen) return;
              const cause = address === DESTINATION ? 'unreachable' : 'hop_limit';
              events.quoted!({ wireSeq, cause, value: 3, address, receivedNs: clock.monoNs(), authentic: true });
            });
          });
        },
        close: () => {
          if (isOpen) open.set(flow, open.get(flow)! - 1);
          isOpen = false;
        },
      };
    },
  };

  /** Lets `seconds` pass, as finely as promises need to follow. */
  async function pass(seconds: number): Promise<void> {
    for (let ms = 0; ms < seconds * 1_000; ms += 5) {
      clock.advance(5);
      for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
    }
  }

  const usual = (news: RouteNews | undefined): (string | undefined)[] | undefined =>
    news?.route?.hops.map(({ addresses }) => addresses[0]);

  let failure: Error | undefined;
  let failures: unknown[];

  beforeEach(() => {
    failures = [];
    clock = new FakeClock();
    open = new Map();
    mostOfAFlow = 0;
    let streams = 0;
    const random = new Random(1);
    tracer = new RouteTracer(
      {
        engine,
        resolver: {
          resolve: () => (failure === undefined ? { address: DESTINATION } : Promise.reject(failure)),
        } as never,
        tcp: undefined as never,
        // Which flows are tried decides whether all ways are found: 95 times in 100.
        random: () => random.next(),
      },
      {
        clock,
        budget: new SendBudget(0),
        nextStreamId: () => (streams += 1),
        countBytes: () => undefined,
        onFailed: (error) => failures.push(error),
      },
    );
    tracer.use([
      {
        recipe: 'r',
        planned: plannedOf({
          test: { routeIntervalNs: ROUND_S * NS_PER_S },
          target: { address: DESTINATION, port: 862 },
        }),
      },
    ]);
    tracer.setSending(true);
  });
  afterEach(() => tracer.stop());

  it('goes on after a round that throws', async () => {
    way = () => ['10.0.0.1', DESTINATION];
    failure = new Error('a bug');
    await pass(2 * ROUND_S);
    expect(failures.length).toBeGreaterThan(0);
    expect(tracer.take('r')).toBeUndefined();
    failure = undefined;
    await pass(2 * ROUND_S);
    expect(usual(tracer.take('r'))).toEqual(['10.0.0.1', DESTINATION]);
  });

  it('tells a route within a round, and no more of it while it stays', async () => {
    way = () => ['10.0.0.1', '10.0.1.1', DESTINATION];
    await pass(ROUND_S);
    expect(usual(tracer.take('r'))).toEqual(['10.0.0.1', '10.0.1.1', DESTINATION]);
    await pass(10 * ROUND_S);
    tracer.take('r');
    await pass(2 * ROUND_S);
    expect(tracer.take('r')).toBeUndefined();
  });

  it('finds the routers that other flows pass', async () => {
    way = (flow) => ['10.0.0.1', `10.0.1.${flow % 3}`, DESTINATION];
    await pass(6 * ROUND_S);
    const { hops } = tracer.take('r')!.route!;
    expect([...hops[1]!.addresses, ...hops[1]!.others].sort()).toEqual(['10.0.1.0', '10.0.1.1', '10.0.1.2']);
  });

  it('notices a change within two rounds also while it looks for other ways through routers that do not answer', async () => {
    // Every other flow meets two silent distances: each of their probes is waited for.
    const ways = (second: string): Way => {
      return (flow) => ['10.0.0.1', ...(flow === 40_000 ? [second] : [undefined, undefined]), DESTINATION];
    };
    way = ways('10.0.1.1');
    await pass(2 * ROUND_S + 2);
    const asked = [...open.entries()].filter(([flow, streams]) => flow !== 40_000 && streams > 0);
    expect(asked.length).toBeGreaterThan(0);
    tracer.take('r');
    way = ways('10.0.2.1');
    const changedMs = clock.wallMs();
    await pass(2 * ROUND_S);
    const { route } = tracer.take('r')!;
    expect(route).toMatchObject({ changes: 1, ending: 'reached' });
    expect(usual({ route: route! })).toEqual(['10.0.0.1', '10.0.2.1', DESTINATION]);
    expect(route!.sinceMs - changedMs).toBeLessThanOrEqual(2 * ROUND_S * 1_000);
  });

  it('has one stream a flow, and none once it is stopped', async () => {
    way = (flow) => ['10.0.0.1', flow % 2 === 0 ? undefined : '10.0.1.1', DESTINATION];
    await pass(8 * ROUND_S);
    // One asks for hops and one for the path MTU.
    expect(mostOfAFlow).toBeLessThanOrEqual(2);
    tracer.stop();
    await pass(2);
    expect([...open.values()].every((streams) => streams === 0)).toBe(true);
  });
});
