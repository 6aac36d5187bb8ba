import { beforeEach, expect, test } from 'vitest';
import { Leaves } from './leaves.ts';

const ONE = { site: 'branch', probe: 'one' };
const TWO = { site: 'branch', probe: 'two' };
const FAR = { site: 'hq', probe: 'edge' };
const BROKER = { created: '2026-11-01T00:00:00Z', readTo: 900 };
const STREAM = { name: 'WAN_LEAF_a', lastSeq: 40, acknowledges: false };
const at = (seq: number, stream = 'WAN_LEAF_a') => ({ stream, seq });
let leaves: Leaves;

beforeEach(() => {
  leaves = new Leaves();
  leaves.configure(['branch']);
});

test('a probe of a site without a leaf node is told of the stream of the broker', () => {
  leaves.read(FAR, undefined);
  expect(leaves.positionOf(FAR, BROKER)).toEqual(BROKER);
});

test('a probe behind a leaf node is told nothing before it is known which stream is there', () => {
  expect(leaves.positionOf(ONE, BROKER)).toBeUndefined();
  leaves.look('branch', STREAM);
  expect(leaves.positionOf(ONE, BROKER)).toEqual({ created: 'WAN_LEAF_a', readTo: 0 });
  leaves.read(ONE, at(7));
  expect(leaves.positionOf(ONE, BROKER)).toEqual({ created: 'WAN_LEAF_a', readTo: 7 });
});

test('what is read tells which stream is there while the leaf node does not answer', () => {
  leaves.read(ONE, at(7));
  expect(leaves.positionOf(ONE, BROKER)).toEqual({ created: 'WAN_LEAF_a', readTo: 7 });
});

test('a leaf node that lost its disk has another stream, and what comes late of the old one says nothing of it', () => {
  leaves.look('branch', STREAM);
  leaves.read(ONE, at(40));
  leaves.look('branch', { name: 'WAN_LEAF_b', lastSeq: 3, acknowledges: false });
  leaves.read(ONE, at(41));
  expect(leaves.positionOf(ONE, BROKER)).toEqual({ created: 'WAN_LEAF_b', readTo: 0 });
  leaves.read(ONE, at(2, 'WAN_LEAF_b'));
  expect(leaves.positionOf(ONE, BROKER)).toEqual({ created: 'WAN_LEAF_b', readTo: 2 });
});

test('reading again from the first message tells of what was read now, not of what was read once', () => {
  leaves.look('branch', STREAM);
  leaves.read(ONE, at(30));
  leaves.forgetPositions();
  expect(leaves.positionOf(ONE, BROKER)?.readTo).toBe(0);
  leaves.read(TWO, at(3));
  expect(leaves.positionOf(ONE, BROKER)?.readTo).toBe(3);
});

test('a probe that left its leaf node for the broker is told of that one, until it is back', () => {
  leaves.look('branch', STREAM);
  leaves.read(ONE, at(30));
  leaves.read(TWO, undefined);
  expect(leaves.positionOf(TWO, BROKER)).toEqual(BROKER);
  expect(leaves.positionOf(ONE, BROKER)?.readTo).toBe(30);
  leaves.read(TWO, at(31));
  expect(leaves.positionOf(TWO, BROKER)?.readTo).toBe(31);
});

test('a leaf node that does not answer keeps its stream, and what waits there is known as of its last answer', () => {
  leaves.look('branch', STREAM);
  leaves.read(ONE, at(30));
  expect(leaves.views).toEqual([{ site: 'branch', isConnected: true, waiting: 10 }]);
  leaves.look('branch', undefined);
  expect(leaves.views).toEqual([{ site: 'branch', isConnected: false, waiting: 10 }]);
  expect(leaves.positionOf(ONE, BROKER)?.created).toBe('WAN_LEAF_a');
});

test('a site that has no leaf node any more is one like all others', () => {
  leaves.look('branch', STREAM);
  leaves.read(ONE, at(30));
  leaves.configure([]);
  expect(leaves.positionOf(ONE, BROKER)).toEqual(BROKER);
  expect(leaves.views).toEqual([]);
});
