import { describe, expect, it } from 'vitest';
import { FakeClock } from '@wanscope/shared/testing';
import { NtpClock } from './ntp-clock.ts';
import { writeIpv6 } from './raw-icmp-socket.ts';

describe('NTP time', () => {
  it('counts seconds since 1900 and binary fractions', () => {
    const clock = new FakeClock({ wallMs: 1_500 });
    const into = { high: 0, low: 0 };
    new NtpClock(clock).read(into);
    // RFC 5905: 1970 is 2,208,988,800 s after 1900; half a second is 2^31.
    expect(into).toEqual({ high: 2_208_988_801, low: 2 ** 31 });
  });

  it('has the resolution of the monotonic clock and follows a step of the wall', () => {
    const clock = new FakeClock({ wallMs: 1_000 });
    const ntp = new NtpClock(clock);
    const into = { high: 0, low: 0 };
    clock.advanceNs(250_000);
    ntp.read(into);
    // 0.25 ms = 2^32 / 4000 of a second.
    expect(Math.abs(into.low - 2 ** 32 / 4_000)).toBeLessThanOrEqual(1);
    clock.stepWall(3_600_000);
    ntp.read(into);
    expect(into.high).toBe(2_208_988_801 + 3_600);
  });
});

it.each([
  ['::1', '00000000000000000000000000000001'],
  ['2001:DB8::a:0:1', '20010db8000000000000000a00000001'],
  ['1:2:3:4:5:6:7:8', '00010002000300040005000600070008'],
  ['::ffff:192.0.2.1', '00000000000000000000ffffc0000201'],
])('IPv6 address %s has its sixteen octets', (address, hex) => {
  const buffer = Buffer.alloc(16);
  writeIpv6(buffer, 0, address);
  expect(buffer.toString('hex')).toBe(hex);
});
