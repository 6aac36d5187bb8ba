import { describe, expect, it } from 'vitest';
import { NS_PER_S } from '@wanscope/shared';
import { SendBudget, tcpClientBytes, tcpStreamBytes, TokenBucket, UsageLedger } from './usage.ts';

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

it('a token bucket never holds more than its burst', () => {
  const bucket = new TokenBucket(10, 5, 0);
  expect(bucket.take(5, 0)).toBe(true);
  expect(bucket.has(5, 100 * NS_PER_S)).toBe(true);
  expect(bucket.has(6, 100 * NS_PER_S)).toBe(false);
});
