import { describe, expect, test } from 'vitest';
import { locate, type SiteSegments } from './segments.ts';

const site = (name: string, states: SiteSegments['states']): SiteSegments => ({ site: name, states });
const LAN = 'lan-gateway';
const HOP = 'wan-next-hop';
const EDGE = 'provider-edge';
const good = { [LAN]: 'ok', [HOP]: 'ok', [EDGE]: 'ok' } as const;

describe('a fault at the source', () => {
  test('is in the LAN when the LAN gateway is bad and so is all behind it', () => {
    const bad = { [LAN]: 'down', [HOP]: 'down', [EDGE]: 'down' } as const;
    expect(locate('down', site('a', bad), undefined)).toEqual({
      place: 'lan',
      text: 'LAN of a: its LAN gateway does not answer.',
    });
  });

  test('is in the access when the LAN is good and the WAN next hop is not', () => {
    const bad = { [LAN]: 'ok', [HOP]: 'degraded', [EDGE]: 'degraded' } as const;
    expect(locate('degraded', site('a', bad), site('b', good))).toEqual({
      place: 'access',
      text: 'Access of a: its WAN next hop is degraded, the LAN gateway is good.',
    });
  });

  test("is in the provider's network when both before its edge are good", () => {
    expect(locate('down', site('a', { ...good, [EDGE]: 'down' }), undefined)).toEqual({
      place: 'provider',
      text: "Provider's network of a: its provider edge does not answer, the LAN gateway and the WAN next hop are good.",
    });
  });

  test('may be in what is not measured before the first bad segment', () => {
    const { place, text } = locate('down', site('a', { [HOP]: 'down', [LAN]: 'no_data' }), undefined);
    expect([place, text]).toEqual(['access', 'LAN or access of a: its WAN next hop does not answer.']);
  });

  test('is not at a router that answers badly while what is behind it answers well', () => {
    const lazy = { [LAN]: 'degraded', [HOP]: 'down', [EDGE]: 'ok' } as const;
    expect(locate('down', site('a', lazy), undefined)).toEqual({
      place: 'beyond',
      text: 'The fault is not there: a is good as far as its provider edge.',
    });
  });
});

describe('a fault elsewhere', () => {
  test('is at the destination when its own segments are bad and those of the source are not', () => {
    expect(locate('down', site('a', good), site('b', { [LAN]: 'ok', [HOP]: 'down' }))).toEqual({
      place: 'far_access',
      text: 'Access of b: its WAN next hop does not answer, the LAN gateway is good.',
    });
  });

  test('is named beside one at the source when both ends are bad', () => {
    const { place, text } = locate('down', site('a', { [LAN]: 'down' }), site('b', { [LAN]: 'down' }));
    expect(place).toBe('lan');
    expect(text).toBe('LAN of a: its LAN gateway does not answer. LAN of b: its LAN gateway does not answer.');
  });

  test('is between the ends when both are good', () => {
    expect(locate('degraded', site('a', good), site('b', { [LAN]: 'ok' }))).toEqual({
      place: 'beyond',
      text: 'The fault is not there: a is good as far as its provider edge, b is good as far as its LAN gateway.',
    });
  });

  test('is anywhere when no segment is measured, and nowhere when the path is good', () => {
    expect(locate('down', site('a', { [LAN]: 'no_data' }), site('b', {})).place).toBe('unknown');
    expect(locate('ok', site('a', { [LAN]: 'down' }), undefined).place).toBe('none');
    expect(locate('no_data', site('a', good), undefined).place).toBe('unknown');
  });
});
