import { describe, expect, it } from 'vitest';
import { NS_PER_S } from '@wanscope/shared';
import { FakeClock } from '@wanscope/shared/testing';
import { PacketFreshness, type Freshness } from './freshness.ts';

const PEER = 'branch/edge';

/** A peer whose clock is `aheadS` of the reflector's monotonic one, and whose packets are judged as they are sent. */
class Sender {
  readonly clock = new FakeClock();
  readonly freshness = new PacketFreshness(this.clock);
  aheadS: number;
  #seq = 0;

  constructor(aheadS = 1_000) {
    this.aheadS = aheadS;
  }

  get nowS(): number {
    return this.clock.monoNs() / NS_PER_S + this.aheadS;
  }

  /** Sends a packet each second. */
  send(count: number, ssid = 1): Freshness[] {
    return Array.from({ length: count }, () => {
      const said = this.again(this.#seq, this.nowS, ssid);
      this.#seq += 1;
      this.clock.advance(1_000);
      return said;
    });
  }

  again(seq: number, t1S: number, ssid = 1): Freshness {
    return this.freshness.judge(PEER, ssid, seq, Math.floor(t1S), (t1S % 1) * 2 ** 32);
  }
}

const NEW = (count: number): Freshness[] => Array.from({ length: count }, () => 'new');

describe('freshness of authentic packets', () => {
  it('takes every packet of a peer once, whatever its clock says', () => {
    for (const aheadS of [10, 1_000, 3_976_000_000]) {
      const sender = new Sender(aheadS);
      expect(sender.send(20)).toEqual(NEW(20));
      for (let seq = 3; seq < 20; seq += 1) expect(sender.again(seq, aheadS + seq), `${seq}`).toBe('repeated');
    }
  });

  it('takes packets of other paths that come in another order, each once', () => {
    const sender = new Sender();
    sender.send(15);
    // One of another SSID was under way for 8 s, and so was the next one.
    const [late, later] = [sender.nowS - 8, sender.nowS - 7];
    expect(sender.again(70, late, 2)).toBe('new');
    expect(sender.again(71, later, 2)).toBe('new');
    expect(sender.again(70, late, 2)).toBe('repeated');
    expect(sender.send(1)).toEqual(['new']);
    // 20 s is longer than any path.
    expect(sender.again(72, sender.nowS - 20, 3)).toBe('repeated');
  });

  it('takes a packet that was overtaken by 63 others, and not one that was overtaken by more', () => {
    const sender = new Sender();
    sender.send(4);
    const at = (seq: number): number => sender.nowS + (seq - 200) / 1_000;
    for (let seq = 101; seq < 164; seq += 1) expect(sender.again(seq, at(seq), 2)).toBe('new');
    expect(sender.again(100, at(100), 2)).toBe('new');
    expect(sender.again(164, at(164), 2)).toBe('new');
    expect(sender.again(165, at(165), 2)).toBe('new');
    expect(sender.again(101, at(101), 2)).toBe('repeated');
    expect(sender.again(100, at(100), 2)).toBe('repeated');
  });

  it('follows a clock that is set forward after three packets', () => {
    const sender = new Sender();
    sender.send(5);
    sender.aheadS += 86_400;
    expect(sender.send(4)).toEqual(['ahead', 'ahead', 'new', 'new']);
    expect(sender.again(1, 1_001)).toBe('repeated');
  });

  it('follows a clock that is set back after a minute, and no captured packets while there are others', () => {
    const sender = new Sender(100_000);
    sender.send(10);
    // Those of ten minutes ago, with their distances kept.
    for (let i = 0; i < 120; i += 1) {
      expect(sender.again(i, sender.nowS - 600)).toBe('repeated');
      expect(sender.send(1)).toEqual(['new']);
    }
    sender.aheadS -= 3_600;
    const said = sender.send(70);
    expect(said.slice(0, 60)).toEqual(Array.from({ length: 60 }, () => 'repeated'));
    expect(said.slice(62)).toEqual(NEW(8));
  });

  it('is not led astray by the random times of requests for consent', () => {
    const sender = new Sender();
    expect(sender.again(9, 3_000_000_000, 7)).toBe('new');
    expect(sender.send(70).every((one) => one === 'new')).toBe(true);
    expect(sender.again(10, 4_000_000_000, 7)).toBe('ahead');
    expect(sender.again(11, 12, 7)).toBe('repeated');
    expect(sender.send(5)).toEqual(NEW(5));
    expect(sender.again(1, sender.nowS - 100)).toBe('repeated');
  });

  it('follows clocks that run fast and slow by a thousandth', () => {
    for (const drift of [1.001, 0.999]) {
      const sender = new Sender();
      for (let i = 0; i < 100_000; i += 1) {
        sender.aheadS = 1_000 + (drift - 1) * i;
        if (sender.send(1)[0] !== 'new') expect.fail(`packet ${i}`);
      }
    }
  });

  it('tells peers apart, and keeps no more than it may', () => {
    const clock = new FakeClock();
    const freshness = new PacketFreshness(clock);
    for (let round = 0; round < 4; round += 1) {
      for (let i = 0; i < 3_000; i += 1) expect(freshness.judge(`s/p${i}`, 1, round, 1_000 + round, 0)).toBe('new');
      clock.advance(1_000);
    }
  });
});
