import { describe, expect, it } from 'vitest';
import { NS_PER_MS } from '@wanscope/shared';
import { FakeClock, Random } from '@wanscope/shared/testing';
import { Schedule, type Task } from './schedule.ts';

interface Run {
  readonly deadlineMs: number;
  readonly skipped: number;
}

function recorder(intervalMs: number, phaseMs: number): Task & { readonly runs: Run[] } {
  const runs: Run[] = [];
  return {
    intervalNs: intervalMs * NS_PER_MS,
    phaseNs: phaseMs * NS_PER_MS,
    runs,
    run: (deadlineNs, skipped) => runs.push({ deadlineMs: deadlineNs / NS_PER_MS, skipped }),
  };
}

describe('the schedule', () => {
  it('runs a task at phase + k * interval and never drifts', () => {
    const clock = new FakeClock({ monoNs: 25 * NS_PER_MS });
    const schedule = new Schedule(clock);
    const task = recorder(10, 3);
    schedule.add(task);
    clock.advance(1_000);
    expect(task.runs[0]).toEqual({ deadlineMs: 33, skipped: 0 });
    expect(task.runs.length).toBe(100);
    expect(task.runs.at(-1)).toEqual({ deadlineMs: 1_023, skipped: 0 });
  });

  it('warms a task up once, before a first deadline that is far enough away', () => {
    const clock = new FakeClock({ monoNs: 25 * NS_PER_MS });
    const schedule = new Schedule(clock);
    const warmUps: number[][] = [];
    const task = {
      ...recorder(10, 3),
      warmUpNs: 12 * NS_PER_MS,
      warmUp: (dueNs: number) => warmUps.push([dueNs / NS_PER_MS, clock.monoNs() / NS_PER_MS]),
    };
    schedule.add(task);
    clock.advance(1_000);
    // 33 would be the first deadline, and 12 before it is past.
    expect(warmUps).toEqual([[31, 31]]);
    expect(task.runs[0]).toEqual({ deadlineMs: 43, skipped: 0 });
    expect(task.runs[1]).toEqual({ deadlineMs: 53, skipped: 0 });
    schedule.remove(task);
    schedule.add(task);
    clock.advance(10);
    expect(warmUps).toHaveLength(2);
  });

  it('runs many tasks each at its own time, with one timer, in order', () => {
    const clock = new FakeClock();
    const schedule = new Schedule(clock);
    const random = new Random(1);
    const order: number[] = [];
    for (let i = 0; i < 200; i += 1) {
      const intervalNs = (1 + random.int(50)) * NS_PER_MS;
      const phaseNs = random.int(intervalNs);
      schedule.add({ intervalNs, phaseNs, run: (deadlineNs) => order.push(deadlineNs) });
    }
    expect(clock.pendingTimers).toBe(1);
    clock.advance(500);
    expect(order.length).toBeGreaterThan(2_000);
    // Deadlines of one wake-up (timers count milliseconds) are in order; so is everything.
    expect(order).toEqual([...order].sort((a, b) => a - b));
  });

  it('skips and counts what it could not run in time, instead of a burst', () => {
    let nowNs = 0;
    let fire: () => void = () => undefined;
    const schedule = new Schedule({
      monoNs: () => nowNs,
      wallMs: () => 0,
      after: (_delayMs, callback) => {
        fire = callback;
        return () => undefined;
      },
    });
    const task = recorder(10, 0);
    schedule.add(task);
    // Due at 10; the process was held up until 47: 10, 20 and 30 are skipped, 40 runs 7 ms late.
    nowNs = 47 * NS_PER_MS;
    fire();
    expect(task.runs).toEqual([{ deadlineMs: 40, skipped: 3 }]);
    expect(schedule.takeTimerError()).toEqual({ maxNs: 7 * NS_PER_MS, sumNs: 7 * NS_PER_MS, count: 1 });
    expect(schedule.takeTimerError().count).toBe(0);
  });

  it('wakes for nobody when it is empty', () => {
    const clock = new FakeClock();
    const schedule = new Schedule(clock);
    const tasks = [recorder(10, 1), recorder(20, 2), recorder(5, 3)];
    for (const task of tasks) schedule.add(task);
    schedule.remove(tasks[2]!);
    clock.advance(100);
    expect(tasks[2]!.runs).toEqual([]);
    expect(tasks[0]!.runs.length).toBe(10);
    for (const task of tasks) schedule.remove(task);
    expect(clock.pendingTimers).toBe(0);
    expect(schedule.size).toBe(0);
  });

  it('runs a task with a lead before its deadline, and each deadline once', () => {
    const clock = new FakeClock();
    const schedule = new Schedule(clock);
    const ranAtMs: number[] = [];
    const deadlinesMs: number[] = [];
    schedule.add({
      intervalNs: 100 * NS_PER_MS,
      phaseNs: 30 * NS_PER_MS,
      leadNs: 20 * NS_PER_MS,
      run: (deadlineNs) => {
        ranAtMs.push(clock.monoNs() / NS_PER_MS);
        deadlinesMs.push(deadlineNs / NS_PER_MS);
      },
    });
    clock.advance(300);
    expect(ranAtMs).toEqual([10, 110, 210]);
    expect(deadlinesMs).toEqual([30, 130, 230]);
    // Whoever waits for the deadline knows how late it was.
    expect(schedule.takeTimerError().count).toBe(0);
  });

  it('does not run a task before the horizon that its deadline lies beyond, and others go on', () => {
    const clock = new FakeClock();
    let horizonMs = 125;
    const schedule = new Schedule(clock, () => horizonMs * NS_PER_MS);
    const ran: string[] = [];
    const task = (name: string, phaseMs: number, leadMs: number): Task => ({
      intervalNs: 1_000 * NS_PER_MS,
      phaseNs: phaseMs * NS_PER_MS,
      leadNs: leadMs * NS_PER_MS,
      run: (deadlineNs) => ran.push(`${name} ${deadlineNs / NS_PER_MS} at ${clock.monoNs() / NS_PER_MS}`),
    });
    // Its time would be 110 ms.
    schedule.add(task('led', 130, 20));
    schedule.add(task('plain', 120, 0));
    schedule.add(task('inside', 124, 20));
    clock.advance(126);
    expect(ran).toEqual(['inside 124 at 104', 'plain 120 at 120', 'led 130 at 125']);
    horizonMs = 1_130;
    clock.advance(1_000);
    expect(ran.slice(3)).toEqual(['inside 1124 at 1104', 'plain 1120 at 1120']);
  });
});
