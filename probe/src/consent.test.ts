import type { PlannedSession, Protocol } from '@wanscope/shared';
import { FakeClock, plannedOf } from '@wanscope/shared/testing';
import { beforeEach, describe, expect, it } from 'vitest';
import { ConsentDesk, type AskedProtocol } from './consent.ts';

const ALL = { udp: 862, tcp: 8_620, http: 8_621 };
const toAsk = (protocol: Protocol, address: string, ask: object = ALL): PlannedSession => {
  const planned = plannedOf();
  return { ...planned, path: { ...planned.path, protocol }, target: { ...planned.target, address, ask } };
};
const settle = async (): Promise<void> => {
  for (let i = 0; i < 20; i += 1) await Promise.resolve();
};

describe('asking for consent', () => {
  let clock: FakeClock;
  let desk: ConsentDesk;
  /** Seconds after the start, and what was asked. */
  let asked: string[];
  let good: (protocol: AskedProtocol) => boolean;
  let given: number;
  let startNs: number;

  async function pass(seconds: number): Promise<void> {
    for (let i = 0; i < seconds; i += 1) {
      clock.advance(1_000);
      await settle();
    }
  }

  beforeEach(() => {
    clock = new FakeClock();
    startNs = clock.monoNs();
    asked = [];
    given = 0;
    good = () => false;
    desk = new ConsentDesk({
      clock,
      exchange: (protocol, { target }) => {
        asked.push(`${(clock.monoNs() - startNs) / 1e9} ${protocol} ${target.address}`);
        return Promise.resolve(good(protocol));
      },
      onGiven: () => {
        given += 1;
      },
    });
    desk.setSending(true);
  });

  it('sends an address that says nothing three datagrams in ten minutes, and nothing else', async () => {
    desk.use([toAsk('icmp', 'v'), toAsk('udp', 'v'), toAsk('tcp', 'v'), toAsk('http', 'v')]);
    await pass(600);
    expect(asked).toEqual(['2 udp v', '15 udp v', '75 udp v']);
    expect(desk.waiting).toBe(1);
    expect([given, desk.isGiven(toAsk('icmp', 'v'))]).toEqual([0, false]);
  });

  it('is not moved by plans that name the address again and again, under other ports', async () => {
    for (let second = 0; second < 600; second += 1) {
      desk.use(second % 3 === 0 ? [] : [toAsk('udp', 'v', { udp: 1_000 + second, tcp: 22 }), toAsk('tcp', 'v')]);
      await pass(1);
    }
    expect(asked.length).toBeLessThanOrEqual(3);
    expect(asked.every((line) => line.includes('udp'))).toBe(true);
  });

  it('asks again when the reflector is at another port, and sends nothing there before it has consented', async () => {
    good = () => true;
    desk.use([toAsk('udp', 'v'), toAsk('tcp', 'v')]);
    await pass(20);
    expect(asked).toEqual(['2 udp v', '2 tcp v']);
    const elsewhere = { udp: 53, tcp: 22, http: 80 };
    good = () => false;
    desk.use(['icmp', 'udp', 'tcp'].map((protocol) => toAsk(protocol as Protocol, 'v', elsewhere)));
    await pass(600);
    const now = ['icmp', 'udp', 'tcp'].map((protocol) => desk.isGiven(toAsk(protocol as Protocol, 'v', elsewhere)));
    expect(now).toEqual([false, false, false]);
    // Counted with what it was asked before: no second allowance.
    expect(asked.length).toBeLessThanOrEqual(5);
    expect(asked.slice(2).every((line) => line.includes('udp'))).toBe(true);
  });

  it('asks for TCP and HTTP at once when UDP has consented, each by itself', async () => {
    good = (protocol) => protocol !== 'http';
    desk.use([toAsk('icmp', 'v'), toAsk('tcp', 'v'), toAsk('http', 'v')]);
    await pass(20);
    // One after the other; the clock of this test moves in seconds.
    expect(asked).toEqual(['2 udp v', '2 tcp v', '3 http v', '16 http v']);
    expect(['icmp', 'udp', 'tcp', 'http'].map((protocol) => desk.isGiven(toAsk(protocol as Protocol, 'v')))).toEqual([
      true,
      true,
      true,
      false,
    ]);
    expect(given).toBe(2);
  });

  it("asks an address without a UDP reflector once in ten minutes by TCP, which is ICMP's consent then", async () => {
    desk.use([toAsk('icmp', 'v', { tcp: 8_620 })]);
    await pass(600);
    expect(asked).toEqual(['2 tcp v']);
    good = () => true;
    await pass(10);
    expect(asked).toEqual(['2 tcp v', '602 tcp v']);
    expect(desk.isGiven(toAsk('icmp', 'v', { tcp: 8_620 }))).toBe(true);
  });

  it('connects to an address without a UDP reflector once in ten minutes in all, also when one at other ports has consented', async () => {
    const both = { tcp: 22, http: 80 };
    desk.use([toAsk('tcp', 'v', both), toAsk('http', 'v', both)]);
    await pass(1_300);
    expect(asked).toEqual(['2 tcp v', '602 http v', '1202 tcp v']);
    good = () => true;
    desk.use([toAsk('udp', 'w'), toAsk('tcp', 'w')]);
    await pass(10);
    good = () => false;
    desk.use([toAsk('tcp', 'w', both), toAsk('http', 'w', both)]);
    asked.length = 0;
    await pass(590);
    expect(asked).toEqual([]);
  });

  it("takes no probe's consent for that of another one that announces the same address", async () => {
    const own = toAsk('udp', 'v');
    const other = { ...own, path: { ...own.path, dst: 'other' } };
    good = () => true;
    desk.use([own, other]);
    await pass(3);
    expect([desk.isGiven(own), desk.isGiven(other)]).toEqual([true, true]);
    good = () => false;
    const third = { ...own, path: { ...own.path, dstSite: 'third' } };
    desk.use([own, third]);
    await pass(60);
    expect([desk.isGiven(own), desk.isGiven(third)]).toEqual([true, false]);
  });

  it('asks nothing while nothing may be sent, and nobody that need not be asked', async () => {
    const planned = plannedOf();
    desk.use([planned]);
    expect(desk.isGiven(planned)).toBe(true);
    desk.setSending(false);
    desk.use([toAsk('udp', 'v')]);
    await pass(100);
    expect(asked).toEqual([]);
    desk.setSending(true);
    await pass(3);
    expect(asked).toHaveLength(1);
  });

  it('keeps what was given for as long as plans name the address', async () => {
    good = () => true;
    desk.use([toAsk('udp', 'v')]);
    await pass(3);
    desk.use([toAsk('udp', 'v'), toAsk('udp', 'w')]);
    expect([desk.isGiven(toAsk('udp', 'v')), desk.isGiven(toAsk('udp', 'w'))]).toEqual([true, false]);
    await pass(600);
    expect(asked).toEqual(['2 udp v', '5 udp w']);
  });
});
