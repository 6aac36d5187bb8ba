import { describe, expect, it } from 'vitest';
import { NS_PER_S } from '@wanscope/shared';
import { SendBudget, tcpClientBytes, tcpStreamBytes, UsageLedger } from './usage.ts';

describe('octets sent', () => {
  it('of a bare connect: SYN 20 + 40, and two segments of 20 + 32', () => {
    expect(tcpClientBytes('ipv4', 0)).toBe(164);
    expect(tcpClientBytes('ipv6', 0)).toBe(224);
  });

  it('of a request of 100 octets answered with 10,000: one data segment and four acknowledgements more', () => {
    // 60 + (1 data + 2 + ceil(10000 / 1440 / 2) = 4) * 52 + 100
    expect(tcpClientBytes('ipv4', 100, 10_000)).toBe(60 + 7 * 52 + 100);
  });

  it('over an open connection: a header for each segment', () => {
    expect(tcpStreamBytes(1_441)).toBe(1_441 + 2 * 52);
  });

  it('add up by purpose and uplink', () => {
    const ledger = new UsageLedger();
    const count = ledger.counter('reflections', 'isp');
    ledger.add('probes', 'isp', 5);
    count(3);
    count(4);
    expect(ledger.list()).toEqual([
      { purpose: 'reflections', uplink: 'isp', bytes: 7 },
      { purpose: 'probes', uplink: 'isp', bytes: 5 },
    ]);
  });
});

describe('the send budget', () => {
  it('lets a quarter of a second through at once and the cap in the long run', () => {
    const budget = new SendBudget(0, { packetsPerSecond: 100, bitsPerSecond: 1e9 });
    let sent = 0;
    for (let ms = 0; ms < 10_000; ms += 1) {
      for (let i = 0; i < 3; i += 1) if (budget.take(1, 100, (ms * NS_PER_S) / 1_000)) sent += 1;
    }
    // 25 at once and 100/s for 9.999 s.
    expect(sent).toBe(1_024);
    expect(budget.refused).toBe(30_000 - 1_024);
  });

  it('counts bits as well as packets, and takes neither when one is missing', () => {
    const budget = new SendBudget(0, { packetsPerSecond: 8, bitsPerSecond: 8_000 });
    // 2,000 bits and 2 packets at once.
    expect(budget.take(1, 251, 0)).toBe(false);
    expect(budget.take(1, 250, 0)).toBe(true);
    expect(budget.take(1, 1, 0)).toBe(false);
  });
});

describe('what a target makes a probe cost beyond its plan', () => {
  const cap = { packetsPerSecond: 1_000, bitsPerSecond: 8e6 };
  const at = (ms: number): number => (ms * NS_PER_S) / 1_000;

  it('is owed by the half of the cap that is not reserved: what is planned goes on', () => {
    const budget = new SendBudget(0, cap);
    // A quarter of a second is 250 packets; half of that are reserved, the rest is owed now.
    for (let i = 0; i < 50; i += 1) budget.correct(1e9, 1e9, 0);
    let sent = 0;
    for (let ms = 1; ms <= 10_000; ms += 1) if (budget.take(1, 100, at(ms), true)) sent += 1;
    // Reserved at first, and seven eighths of 1,000/s.
    expect(sent).toBeGreaterThan(125 + 0.87 * 10_000 - 10);
    expect(budget.take(1, 100, at(10_000), false)).toBe(false);
  });

  it('is at most one burst for one probe, and paid back at what the others leave', () => {
    const budget = new SendBudget(0, cap);
    budget.correct(1e9, 1e9, 0);
    // 125 in the common half, 250 owed: 125 below nothing, paid back in an eighth of a second as the reserve is full.
    expect(budget.take(1, 1, at(120), false)).toBe(false);
    expect(budget.take(1, 1, at(130), false)).toBe(true);
  });

  it('never adds to the cap: reserved and common together let through what the cap says', () => {
    const budget = new SendBudget(0, cap);
    let packets = 0;
    for (let ms = 0; ms < 10_000; ms += 1) {
      for (let i = 0; i < 2; i += 1) if (budget.take(1, 100, at(ms), true)) packets += 1;
      if (budget.take(100, 10_000, at(ms), false)) packets += 100;
    }
    expect(packets).toBeLessThanOrEqual(250 + 10_000);
    expect(packets).toBeGreaterThan(9_900);
  });

  it('what is given back is given back once', () => {
    const budget = new SendBudget(0, cap);
    expect(budget.take(100, 100, 0, false)).toBe(true);
    budget.correct(-100, -100, 0);
    let sent = 0;
    while (budget.take(1, 1, 0, true)) sent += 1;
    expect(sent).toBe(250);
  });
});
