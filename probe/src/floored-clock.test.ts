import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FakeClock } from '@wanscope/shared/testing';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FlooredClock, TimeKeeper } from './floored-clock.ts';

const NOON = Date.UTC(2026, 0, 5, 12);
const HOUR_MS = 3_600_000;
const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

describe('a clock with a floor', () => {
  test('of a machine that wakes up in 1970 says the floor and what has passed since', () => {
    const machine = new FakeClock({ wallMs: 5_000 });
    const clock = new FlooredClock(machine, NOON);
    machine.advance(90_000);
    expect(clock.isBehind).toBe(true);
    expect(clock.wallMs()).toBe(NOON + 90_000);
    expect(clock.monoNs()).toBe(90_000e6);
  });

  test('says what the machine says as soon as that can be true, also when it is an hour slow', () => {
    const machine = new FakeClock({ wallMs: 0 });
    const clock = new FlooredClock(machine, NOON);
    machine.stepWall(NOON - HOUR_MS - 1);
    expect(clock.wallMs()).toBe(NOON);
    machine.stepWall(1);
    expect(clock.isBehind).toBe(false);
    expect(clock.wallMs()).toBe(NOON - HOUR_MS);
    machine.stepWall(50 * HOUR_MS);
    expect(clock.wallMs()).toBe(NOON + 49 * HOUR_MS);
  });

  test('learns later times only, and counts on from them', () => {
    const machine = new FakeClock({ wallMs: 0 });
    const clock = new FlooredClock(machine, NOON);
    clock.learn(NOON - 1);
    expect(clock.floorMs).toBe(NOON);
    clock.learn(NOON + HOUR_MS);
    machine.advance(1_000);
    // Said before the second that has passed: older than what is known.
    clock.learn(NOON + HOUR_MS + 999);
    expect(clock.floorMs).toBe(NOON + HOUR_MS + 1_000);
  });

  test.each([Number.NaN, Infinity, 1.5, 253_402_300_799_001, -1])('learns nothing from %d', (ms) => {
    const clock = new FlooredClock(new FakeClock({ wallMs: 0 }), NOON);
    clock.learn(ms);
    expect(clock.floorMs).toBe(NOON);
  });

  test('is not raised by the clock of the machine, which may be ahead for a while', () => {
    const machine = new FakeClock({ wallMs: NOON + 1_000 * HOUR_MS });
    const clock = new FlooredClock(machine, NOON);
    expect(clock.wallMs()).toBe(NOON + 1_000 * HOUR_MS);
    machine.stepWall(-1_000 * HOUR_MS);
    expect(clock.wallMs()).toBe(NOON);
  });
});

describe('the floor in the state directory', () => {
  let directory: string;
  const file = (): string => join(directory, 'state', 'time');
  beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'wan-time-'))));
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  test('outlives a power cut, and what came after it was kept is lost, an hour at most', () => {
    const machine = new FakeClock({ wallMs: 0 });
    const keeper = new TimeKeeper(new FlooredClock(machine, 0), file(), log);
    keeper.learn(NOON);
    expect(statSync(file()).mode & 0o777).toBe(0o600);
    machine.advance(HOUR_MS - 1);
    keeper.look();
    expect(readFileSync(file(), 'utf8')).toBe(`${NOON}\n`);
    const after = new FlooredClock(new FakeClock({ wallMs: 0 }), 0);
    new TimeKeeper(after, file(), log);
    expect(after.wallMs()).toBe(NOON);
    machine.advance(1);
    keeper.look();
    expect(readFileSync(file(), 'utf8')).toBe(`${NOON + HOUR_MS}\n`);
  });

  test('is not written for every word of the collector', () => {
    const machine = new FakeClock({ wallMs: NOON });
    const keeper = new TimeKeeper(new FlooredClock(machine, 0), file(), log);
    const written = new Set<string>();
    for (let i = 0; i < 720; i += 1) {
      keeper.learn(machine.wallMs());
      written.add(readFileSync(file(), 'utf8'));
      machine.advance(10_000);
    }
    // Two hours, less the last ten seconds.
    expect(written.size).toBe(2);
  });

  test.each(['', 'soon', '-5', '9999999999999999'])('that says %j is none', (text) => {
    const clock = new FlooredClock(new FakeClock({ wallMs: 0 }), NOON);
    writeFileSync(join(directory, 'time'), text);
    new TimeKeeper(clock, join(directory, 'time'), log);
    expect(clock.floorMs).toBe(NOON);
  });
});
