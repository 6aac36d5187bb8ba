import { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '@wanscope/shared/testing';
import { connectAtTimeout } from './connect.ts';
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
