import { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '@wanscope/shared/testing';
import { connectAtTimeout, connectTime, type ConnectDependencies, type ConnectTime } from './connect.ts';
import type { Handshake } from './native.ts';

const DEADLINE_NS = 900e6;

function atTimeout(lateMs: number, handshake: Handshake | undefined): ReturnType<typeof connectAtTimeout> {
  const clock = new FakeClock({});
  clock.advanceNs(DEADLINE_NS + lateMs * 1e6 - clock.monoNs());
  return connectAtTimeout({ clock, readHandshake: () => handshake }, new Socket(), DEADLINE_NS);
}

describe('a connect whose wait has ended', () => {
  it('is lost when the kernel still waits, however late this process is', () => {
    expect(atTimeout(0, { isAnswered: false })).toBe('lost');
    expect(atTimeout(500, { isAnswered: false })).toBe('lost');
  });

  it('was answered when the kernel says so and this process did not see it', () => {
    const handshake = { isAnswered: true, rttNs: 20e6, retransmitted: false } as const;
    expect(atTimeout(500, handshake)).toEqual(handshake);
  });

  it('is lost when the kernel cannot be asked, and unknown when the timer was late too', () => {
    expect(atTimeout(9, undefined)).toBe('lost');
    expect(atTimeout(11, undefined)).toBe('unknown');
  });
});

describe('a connect that has succeeded', () => {
  function afterMs(tookMs: number, handshake: Handshake | undefined, isLate = false): ConnectTime {
    const clock = new FakeClock({});
    const startNs = clock.monoNs();
    clock.advanceNs(tookMs * 1e6);
    const known = { clock, readHandshake: () => handshake, watch: { isLate: () => isLate } };
    return connectTime(known as unknown as ConnectDependencies, new Socket(), startNs);
  }

  it('took what the kernel says, however late the event loop is', () => {
    const handshake = { isAnswered: true, rttNs: 20e6, retransmitted: false } as const;
    expect(afterMs(500, handshake, true)).toEqual({ rttNs: 20e6, retransmitted: false, contaminated: false });
  });

  it('took what the event loop saw where the kernel cannot be asked', () => {
    expect(afterMs(30, undefined)).toEqual({ rttNs: 30e6, retransmitted: false, contaminated: false });
    expect(afterMs(30, undefined, true)).toMatchObject({ contaminated: true });
    expect(afterMs(1_001, undefined)).toMatchObject({ retransmitted: true });
  });

  it('is no answer while the kernel still waits for one', () => {
    expect(afterMs(30, { isAnswered: false })).toMatchObject({ contaminated: true });
  });
});
