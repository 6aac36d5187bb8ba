import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { clientOf } from '@wanscope/shared';
import { FakeClock } from '@wanscope/shared/testing';
import { ListenerShares, type ClosureCause } from './listener-shares.ts';

class FakeSocket extends EventEmitter {
  readonly remoteAddress: string;
  isEnded = false;

  constructor(remoteAddress: string) {
    super();
    this.remoteAddress = remoteAddress;
  }

  destroy(): void {
    this.isEnded = true;
    this.emit('close');
  }
}

const LIMITS = { total: 8, ofOneSource: 2, ofOnePeer: 4, unfinishedMs: 1_000 };
const PEER = clientOf('192.0.2.77');

function listener(): {
  readonly clock: FakeClock;
  readonly closed: ClosureCause[];
  readonly shares: ListenerShares;
  readonly open: (address: string) => FakeSocket;
} {
  const clock = new FakeClock();
  const closed: ClosureCause[] = [];
  const shares = new ListenerShares({
    ...{ clock, limits: LIMITS },
    isPeer: (client) => client === PEER,
    closed: (cause) => closed.push(cause),
  });
  const open = (address: string): FakeSocket => {
    const socket = new FakeSocket(address);
    shares.admit(socket as unknown as Socket);
    return socket;
  };
  return { clock, closed, shares, open };
}

describe('connections of a listener', () => {
  it('have a share by source: one IPv6 network of 64 bits is one', () => {
    const { closed, open } = listener();
    const sockets = ['2001:db8::1', '2001:db8::2', '2001:db8::3', '2001:db8:0:1::1'].map(open);
    expect(sockets.map(({ isEnded }) => isEnded)).toEqual([true, false, false, false]);
    expect(closed).toEqual(['source_share']);
  });

  it('of a known peer are more, and go last', () => {
    const { closed, open } = listener();
    const ofPeer = Array.from({ length: 4 }, () => open('192.0.2.77'));
    const others = ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4', '192.0.2.5', '192.0.2.6'].map(open);
    expect(ofPeer.some(({ isEnded }) => isEnded)).toBe(false);
    expect(others.map(({ isEnded }) => isEnded)).toEqual([true, true, false, false, false, false]);
    expect(closed).toEqual(['listener_full', 'listener_full']);
  });

  it('of which nothing whole came are ended after a second when more than half is taken, and not before', () => {
    const { clock, closed, shares, open } = listener();
    const [first, second] = [open('192.0.2.1'), open('192.0.2.2')];
    shares.finished(second as unknown as Socket);
    clock.advance(1_000);
    const later = ['192.0.2.3', '192.0.2.4', '192.0.2.5'].map(open);
    // Half is taken, and one: it is looked when the next one comes.
    expect(closed).toEqual([]);
    open('192.0.2.6');
    expect([first, second, ...later].map(({ isEnded }) => isEnded)).toEqual([true, false, false, false, false]);
    expect(closed).toEqual(['unfinished']);
  });
});
