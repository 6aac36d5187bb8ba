/**
 * What every prober promises, as a suite that each one's live test runs: answers are answered, silence is loss, late is
 * late and lost, a closed channel sends nothing and leaves nothing behind, and every octet is counted.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NS_PER_MS, systemClock, type Clock, type Family, type PathRecord } from '@wanscope/shared';
import { plannedOf, slowness } from '@wanscope/shared/testing';
import { IntervalClock } from '../interval.ts';
import { Session } from '../session.ts';
import { SendBudget } from '../usage.ts';
import type { Prober } from './prober.ts';

/** Where the suite sends: loopback only. */
export interface ContractTarget {
  readonly address: string;
  readonly port: number | undefined;
  /** Called before a test sends here, where one address has to play several parts. */
  readonly prepare?: () => void;
}

export interface ProberFixture {
  readonly prober: Prober;
  /** The clock that the prober was given. */
  readonly clock: CountingClock;
  readonly family: Family;
  readonly answering: ContractTarget;
  /** Takes packets and never answers. */
  readonly silent: ContractTarget;
  /** Answers SLOW_ANSWER_MS late; undefined where a prober hangs up at its timeout. */
  readonly slow?: ContractTarget;
  /** Reads what waits to be read. */
  readonly drain?: () => void;
  /** Octets that one answered probe of 100 sends at least and at most. */
  readonly wireBytes: readonly [least: number, most: number];
  close(): Promise<void>;
}

const TIMEOUT_MS = 150;
export const SLOW_ANSWER_MS = 250;
const PROBES = 5;
/** Rounds of so many, at most, until one of them is not marked as late. */
const ROUNDS = 5;
const SPACING_MS = 20;

const sleep = async (delayMs: number): Promise<void> => {
  await new Promise((resolve) => setTimeout(resolve, delayMs));
};

/** The machine's clock, which knows how many timers are armed. */
export class CountingClock implements Clock {
  armed = 0;

  monoNs(): number {
    return systemClock.monoNs();
  }

  wallMs(): number {
    return systemClock.wallMs();
  }

  after(delayMs: number, callback: () => void): () => void {
    let over = false;
    const end = (): boolean => {
      if (over) return false;
      over = true;
      this.armed -= 1;
      return true;
    };
    this.armed += 1;
    const cancel = systemClock.after(delayMs, () => {
      if (end()) callback();
    });
    return () => {
      if (end()) cancel();
    };
  }
}

/** Sockets and look-ups of this process. Timers are not among them: the test runner has its own. */
function handles(): string {
  const counts = new Map<string, number>();
  for (const name of process.getActiveResourcesInfo()) {
    if (/^(?:TCP|UDP|TLS|GetAddrInfo)/.test(name)) counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return JSON.stringify([...counts].sort());
}

/** Polls until `condition` holds, at most 2 s: handles are released by the system in its own time. */
async function eventually(condition: () => boolean): Promise<boolean> {
  for (let waitedMs = 0; waitedMs < 2_000; waitedMs += 20) {
    if (condition()) return true;
    await sleep(20);
  }
  return condition();
}

export function proberContract(name: string, open: () => Promise<ProberFixture>): void {
  describe(`the ${name} prober`, () => {
    let fixture: ProberFixture;

    beforeAll(async () => {
      fixture = await open();
    });
    afterAll(async () => fixture.close());

    function session(target: ContractTarget): {
      session: Session;
      bytes: () => number;
      contaminated: () => number;
      close: () => PathRecord;
    } {
      target.prepare?.();
      const { family } = fixture;
      const { protocol } = fixture.prober;
      // Long enough that no test crosses its end.
      const intervals = new IntervalClock(systemClock, 300_000);
      let bytes = 0;
      let contaminated = 0;
      const planned = plannedOf({
        protocol,
        family,
        test: { intervalNs: SPACING_MS * NS_PER_MS, timeoutNs: TIMEOUT_MS * NS_PER_MS },
        source: { address: family === 'ipv4' ? '127.0.0.1' : '::1' },
        target: { address: target.address, port: target.port, question: { name: 'host.example', type: 'A' } },
      });
      const made = new Session(planned, 'd', 1 + Math.floor(Math.random() * 1e6), 10_000, fixture.prober, {
        clock: systemClock,
        budget: new SendBudget(systemClock.monoNs()),
        intervalAt: () => intervals.current,
        countBytes: (_uplink, count) => {
          bytes += count;
        },
        drain: () => fixture.drain?.(),
        missed: () => false,
        countContaminated: () => {
          contaminated += 1;
        },
      });
      const close = (): PathRecord => {
        fixture.drain?.();
        return made.close(intervals.current);
      };
      return { session: made, bytes: () => bytes, contaminated: () => contaminated, close };
    }

    async function send(running: Session): Promise<void> {
      // A datagram socket is bound a moment after it was asked for.
      await sleep(SPACING_MS);
      for (let i = 0; i < PROBES; i += 1) {
        running.run(systemClock.monoNs(), 0);
        await sleep(SPACING_MS);
      }
    }

    it('has an answer for each probe, with a round trip of loopback size, and counts its octets', async () => {
      const { session: running, bytes, contaminated, close } = session(fixture.answering);
      // An engine that stamps in an event loop may have been late itself, and says so; on a busy machine with every probe.
      let asked = 0;
      do {
        await send(running);
        asked += PROBES;
        await eventually(() => running.pending === 0);
      } while (contaminated() === asked && asked < ROUNDS * PROBES);
      const record = close();
      running.stop();
      const counted = asked - contaminated();
      expect(record).toMatchObject({
        sent: counted,
        lost: 0,
        notSent: 0,
        contaminated: contaminated(),
        late: 0,
        duplicates: 0,
        spoofed: 0,
        replayed: 0,
      });
      expect(record.rtt!.count).toBe(counted);
      expect(record.rtt!.minNs).toBeLessThan(50 * NS_PER_MS);
      const [least, most] = fixture.wireBytes;
      expect(bytes()).toBeGreaterThanOrEqual(asked * least);
      expect(bytes()).toBeLessThanOrEqual(asked * most);
    });

    it('loses what nobody answers', async () => {
      const { session: running, contaminated, close } = session(fixture.silent);
      await send(running);
      await sleep(2 * TIMEOUT_MS);
      const record = close();
      running.stop();
      const counted = PROBES - contaminated();
      expect(record).toMatchObject({ sent: counted, lost: counted, notSent: 0 });
      expect(record.rtt).toBeUndefined();
    });

    it('counts a late answer as late and lost, or hangs up before one can come', async () => {
      if (fixture.slow === undefined) {
        expect(fixture.prober.timesOut).toBe(true);
        return;
      }
      const { session: running, contaminated, close } = session(fixture.slow);
      await send(running);
      await sleep(2 * SLOW_ANSWER_MS * slowness());
      const record = close();
      running.stop();
      const counted = PROBES - contaminated();
      expect(record).toMatchObject({ sent: counted, lost: counted, late: counted });
    });

    it('leaves nothing behind when it is closed with probes under way, and sends nothing afterwards', async () => {
      const before = handles();
      const { session: running, bytes, contaminated, close } = session(fixture.silent);
      await send(running);
      running.stop();
      running.stop();
      const sent = bytes();
      running.run(systemClock.monoNs(), 0);
      const record = close();
      // On a busy machine the last ones may still have waited for their turn.
      expect(record.notSent).toBe(PROBES - contaminated() - record.sent + 1);
      expect(fixture.clock.armed).toBe(0);
      await eventually(() => handles() === before);
      expect(handles()).toBe(before);
      expect(bytes()).toBe(sent);
    });
  });
}
