import { beforeEach, describe, expect, it } from 'vitest';
import { decodeReport, encodeReport, NS_PER_MS } from '@wanscope/shared';
import { FakeClock, plannedOf, Random, reportOf } from '@wanscope/shared/testing';
import { IntervalClock, type IntervalSpan } from './interval.ts';
import type { ProbeEvents, Prober } from './probers/prober.ts';
import { Schedule } from './schedule.ts';
import { Session } from './session.ts';
import { SendBudget } from './usage.ts';

const ms = (value: number): number => value * NS_PER_MS;

const PLANNED = plannedOf({
  index: 3,
  path: { srcUplink: 'isp' },
  test: { timeoutNs: ms(900) },
  source: { address: '192.0.2.1' },
  target: { address: '192.0.2.2', port: 862 },
});

describe('a session', () => {
  let clock: FakeClock;
  let intervals: IntervalClock;
  let closing: IntervalSpan | undefined;
  let schedule: Schedule;
  let session: Session;
  let events: ProbeEvents;
  let onSend: (seq: number) => void;
  let bytes: [string, number][];
  let onDrain: () => void;
  let missed: (sentNs: number, deadlineNs: number) => boolean;
  let contaminated: number;
  const instrument = {
    drain: () => onDrain(),
    missed: (sentNs: number, deadlineNs: number) => missed(sentNs, deadlineNs),
    countContaminated: () => {
      contaminated += 1;
    },
  };

  const prober = (timesOut: boolean, warmsUp = false): Prober => ({
    protocol: 'udp',
    timesOut,
    warmsUp,
    leadNs: 0,
    open: (_request, given) => {
      events = given;
      return { send: (seq) => onSend(seq), close: () => undefined };
    },
  });

  /** Sends at once; the token is (session-independent) 1 and the sequence number. */
  const send = (seq: number): void => events.sent(seq, clock.monoNs(), 1, seq);
  const answerAfter = (seq: number, delayMs: number): void => {
    clock.after(delayMs, () => events.reply(seq, 1, seq, clock.monoNs(), 0));
  };

  function make(
    options: { cap?: { packetsPerSecond: number; bitsPerSecond: number }; timesOut?: boolean; warmsUp?: boolean } = {},
  ): void {
    clock = new FakeClock();
    intervals = new IntervalClock(clock, 10_000);
    closing = undefined;
    bytes = [];
    onDrain = () => undefined;
    missed = () => false;
    contaminated = 0;
    session = new Session(PLANNED, 'd1', 1, 10_000, prober(options.timesOut ?? false, options.warmsUp ?? false), {
      clock,
      budget: new SendBudget(clock.monoNs(), options.cap),
      intervalAt: (deadlineNs) => {
        closing = intervals.advance() ?? closing;
        return deadlineNs < intervals.current.startNs && closing !== undefined ? closing : intervals.current;
      },
      countBytes: (uplink, count) => bytes.push([uplink, count]),
      ...instrument,
    });
    schedule = new Schedule(clock);
    schedule.add(session);
  }

  /** Runs to `graceMs` after the end of the interval and closes it. */
  function closeInterval(graceMs = 1_000) {
    const span = intervals.current;
    clock.advanceNs(span.endNs - clock.monoNs() + ms(graceMs));
    return session.close(span);
  }

  beforeEach(() => {
    onSend = send;
    make();
  });

  it('does not count its first probe, which waits for neighbours to be resolved, but its octets', () => {
    onSend = (seq) => {
      send(seq);
      events.wireBytes(128);
      // The first answer is slow, comes after that to the second probe, and twice.
      answerAfter(seq, seq === 0 ? 700 : 40);
      if (seq === 0) answerAfter(seq, 720);
    };
    make({ warmsUp: true });
    const first = closeInterval();
    expect(first).toMatchObject({ lost: 0, late: 0, duplicates: 0, reordered: 0, replayed: 0, spoofed: 0, notSent: 0 });
    expect(first.rtt).toMatchObject({ minNs: ms(40), maxNs: ms(40) });
    const second = closeInterval();
    expect(bytes.length).toBeGreaterThanOrEqual(20);
    expect(first.sent + second.sent).toBeLessThan(bytes.length);
    expect(first.interarrivalJitterNs).toBe(0);
  });

  it('neither loses its first probe nor calls it late when nothing answers it in time', () => {
    onSend = (seq) => {
      send(seq);
      answerAfter(seq, seq === 0 ? 5_000 : 40);
    };
    make({ warmsUp: true });
    expect(closeInterval()).toMatchObject({ lost: 0, late: 0, contaminated: 0 });
  });

  it('goes on after a pause without another that nobody counts: the reflector would have numbered it', () => {
    let reflected = 0;
    onSend = (seq) => {
      send(seq);
      const number = reflected++;
      clock.after(40, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.reflected(seq, number, Number.NaN, Number.NaN);
      });
    };
    make({ warmsUp: true });
    closeInterval();
    schedule.remove(session);
    closeInterval();
    schedule.add(session);
    for (let interval = 0; interval < 3; interval += 1) {
      intervals.advance();
      const { sent, oneWayLost } = closeInterval();
      expect(sent).toBeGreaterThan(0);
      expect(oneWayLost).toEqual({ forward: 0, reverse: 0, unknown: 0 });
    }
  });

  it('counts an answer to each probe with its round trip', () => {
    onSend = (seq) => {
      send(seq);
      answerAfter(seq, 40);
    };
    expect(closeInterval()).toMatchObject({
      index: 3,
      sent: 10,
      lost: 0,
      rtt: { count: 10, minNs: ms(40), maxNs: ms(40), sumNs: ms(400) },
      interarrivalJitterNs: 0,
    });
  });

  it('counts what arrives after its last interval in that interval', () => {
    onSend = (seq) => {
      send(seq);
      answerAfter(seq, 40);
    };
    const span = intervals.current;
    clock.advanceNs(span.endNs - clock.monoNs() - 1);
    schedule.remove(session);
    session.endsWith(span.number);
    clock.advanceNs(ms(500));
    events.reply(9, 1, 9, clock.monoNs(), 0);
    expect(session.close(span)).toMatchObject({ sent: 10, lost: 0, duplicates: 1 });
  });

  it('subtracts a dwell that fits into the round trip and ignores one that does not', () => {
    onSend = (seq) => {
      send(seq);
      clock.after(40, () => events.reply(seq, 1, seq, clock.monoNs(), [ms(10), ms(41), -1][seq % 3]!));
    };
    // Numbers 0, 3, 6, 9 have a dwell of 10 ms: 4 * 30 + 6 * 40 = 360 ms.
    expect(closeInterval().rtt).toMatchObject({ minNs: ms(30), maxNs: ms(40), sumNs: ms(360) });
  });

  it('counts what is never answered as lost, in the interval of its scheduled send', () => {
    const record = closeInterval();
    expect(record).toMatchObject({ sent: 10, lost: 10 });
    expect(record.rtt).toBeUndefined();
    expect(closeInterval()).toMatchObject({ sent: 10, lost: 10 });
  });

  it('counts a late reply as late where it arrives and leaves it lost', () => {
    onSend = (seq) => {
      send(seq);
      // Number 9, sent in the last second, is answered in the next interval, before the first one closes.
      if (seq === 9) answerAfter(seq, 1_200);
      else answerAfter(seq, 5);
    };
    const first = closeInterval(3_000);
    expect(first).toMatchObject({ sent: 10, lost: 1, late: 0 });
    expect(closeInterval()).toMatchObject({ sent: 10, lost: 0, late: 1 });
  });

  it('tells duplicates, forged, replayed and reordered replies apart', () => {
    onSend = (seq) => {
      send(seq);
      if (seq === 0) answerAfter(seq, 5);
      if (seq === 1) {
        answerAfter(0, 1);
        clock.after(2, () => events.reply(seq, 1, 77, clock.monoNs(), 0));
        clock.after(3, () => {
          expect(events.reply(123_456, 1, 2, clock.monoNs(), 0)).toBe('forgotten');
          events.forgotten(true);
          events.forgotten(false);
        });
      }
      if (seq === 2) answerAfter(seq, 800);
    };
    expect(closeInterval()).toMatchObject({ sent: 10, lost: 8, duplicates: 1, spoofed: 2, replayed: 1, reordered: 0 });
  });

  it('counts replies that overtake each other as reordered', () => {
    const fast = { ...PLANNED, test: { ...PLANNED.test, intervalNs: ms(100) } };
    schedule.clear();
    session = new Session(fast, 'd1', 2, 10_000, prober(false), {
      clock,
      budget: new SendBudget(0),
      intervalAt: () => intervals.current,
      countBytes: () => undefined,
      ...instrument,
    });
    schedule.add(session);
    onSend = (seq) => {
      send(seq);
      // Number 4 takes 250 ms and arrives after 5 and 6; all others take 1 ms.
      answerAfter(seq, seq === 4 ? 250 : 1);
    };
    clock.advance(9_950);
    expect(session.close(intervals.current)).toMatchObject({ lost: 0, reordered: 1 });
  });

  it('refuses forged replies of every kind without a change of what it measured', () => {
    const random = new Random(5);
    onSend = (seq) => {
      send(seq);
      answerAfter(seq, 10);
    };
    clock.advance(5_500);
    const pending = session.pending;
    for (let i = 0; i < 10_000; i += 1) {
      const verdict = events.reply(random.int(2 ** 32), random.int(2 ** 32), random.int(2 ** 32), clock.monoNs(), 0);
      expect(['wrong', 'forgotten']).toContain(verdict);
      if (verdict === 'forgotten') events.forgotten(false);
    }
    expect(session.pending).toBe(pending);
    expect(closeInterval()).toMatchObject({ sent: 10, lost: 0, spoofed: 10_000, duplicates: 0, late: 0 });
  });

  it('counts local errors beside sent and lost', () => {
    onSend = (seq) => events.settle(seq, seq % 2 === 0 ? 'not_sent' : 'unresolved');
    expect(closeInterval()).toMatchObject({ sent: 0, lost: 0, notSent: 5, outcomes: { unresolved: 5 } });
  });

  it('calls a way out that is missing loss, and a source address that is missing a local error', () => {
    let isGone = false;
    schedule.clear();
    session = new Session(PLANNED, 'd1', 2, 10_000, prober(false), {
      clock,
      budget: new SendBudget(0),
      intervalAt: () => intervals.current,
      countBytes: () => undefined,
      isSourceGone: () => isGone,
      ...instrument,
    });
    schedule.add(session);
    onSend = (seq) => {
      isGone = seq >= 4;
      events.settle(seq, 'unreachable');
    };
    clock.advance(9_950);
    expect(session.close(intervals.current)).toMatchObject({
      sent: 4,
      lost: 4,
      notSent: 6,
      notSentCauses: { no_address: 6 },
    });
  });

  it('counts what has a way by another interface only as misrouted, neither sent nor lost', () => {
    onSend = (seq) => {
      if (seq < 4) {
        events.settle(seq, 'misrouted');
        return;
      }
      send(seq);
      answerAfter(seq, 5);
    };
    expect(closeInterval()).toMatchObject({ sent: 6, lost: 0, notSent: 0, outcomes: { misrouted: 4 } });
  });

  it('takes what a resolver says of a name for an answer with an RTT', () => {
    make({ timesOut: true });
    onSend = (seq) => {
      send(seq);
      const outcome = (['answered', 'nxdomain', 'servfail', 'dns_refused', 'dns_error'] as const)[seq % 5]!;
      events.settle(seq, outcome, ms(7));
    };
    expect(closeInterval()).toMatchObject({
      sent: 10,
      lost: 0,
      rtt: { count: 10, sumNs: ms(70) },
      outcomes: { nxdomain: 2, servfail: 2, dns_refused: 2, dns_error: 2 },
    });
  });

  it('keeps the outcomes of connects: an answer with an RTT or a loss', () => {
    make({ timesOut: true });
    onSend = (seq) => {
      send(seq);
      const outcome = (['answered', 'refused', 'lost', 'unreachable', 'retransmitted'] as const)[seq % 5]!;
      events.settle(seq, outcome, seq % 5 < 2 ? ms(7) : undefined);
      // A second end of the same probe changes nothing.
      events.settle(seq, 'lost');
    };
    expect(closeInterval()).toMatchObject({
      sent: 10,
      lost: 6,
      rtt: { count: 4, sumNs: ms(28) },
      outcomes: { refused: 2, unreachable: 2, retransmitted: 2 },
    });
  });

  it('says why probes were not sent', () => {
    onSend = (seq) => {
      if (seq < 3) events.notSent(seq, 'no_route');
      else if (seq < 5) events.notSent(seq, 'no_buffer');
      else if (seq < 6) events.settle(seq, 'not_sent');
      else send(seq);
    };
    expect(closeInterval()).toMatchObject({
      sent: 4,
      lost: 4,
      notSent: 6,
      notSentCauses: { no_route: 3, no_buffer: 2 },
    });
  });

  it('stays under the cap whatever the plan says', () => {
    // A quarter of a second's allowance at once: 1 packet of 4 a second. One comes back each 250 ms.
    make({ cap: { packetsPerSecond: 4, bitsPerSecond: 1e9 } });
    expect(closeInterval()).toMatchObject({ sent: 10, notSent: 0 });
    // 128 octets are 1,024 bits; 1,024 bit/s allow a burst of 256 bits only.
    make({ cap: { packetsPerSecond: 2_000, bitsPerSecond: 1_024 } });
    expect(closeInterval()).toMatchObject({ sent: 0, notSent: 10, notSentCauses: { cap: 10 } });
  });

  it('attributes loss to a direction by the reflector’s numbers', () => {
    let reflected = 0;
    onSend = (seq) => {
      send(seq);
      // 3 is lost on the way there; 6 is reflected and lost on the way back.
      if (seq === 3) return;
      const number = reflected++;
      if (seq === 6) return;
      clock.after(10, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.reflected(seq, number, Number.NaN, Number.NaN);
      });
    };
    expect(closeInterval()).toMatchObject({ sent: 10, lost: 2, oneWayLost: { forward: 1, reverse: 1, unknown: 0 } });
  });

  it('counts by flow, and takes ways of different length neither for reordering nor for variation', () => {
    schedule.clear();
    const test = { ...PLANNED.test, intervalNs: ms(100), flows: 2 };
    session = new Session({ ...PLANNED, test }, 'd1', 2, 10_000, prober(false), {
      clock,
      budget: new SendBudget(0),
      intervalAt: () => intervals.current,
      countBytes: () => undefined,
      ...instrument,
    });
    schedule.add(session);
    // Even probes take 250 ms, odd ones 10 ms and arrive before the even one before them. 20 is lost there, 31 back; 40 to 43
    // never leave. The reflector numbers each flow for itself.
    const reflected = [0, 0];
    onSend = (seq) => {
      if (seq >= 40 && seq < 44) {
        events.settle(seq, 'not_sent');
        return;
      }
      send(seq);
      if (seq === 20) return;
      const number = reflected[seq % 2]!++;
      if (seq === 31) return;
      clock.after(seq % 2 === 0 ? 250 : 10, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.reflected(seq, number, clock.monoNs(), Number.NaN);
      });
    };
    clock.advance(9_000);
    schedule.remove(session);
    clock.advance(950);
    const record = session.close(intervals.current);
    expect(record).toMatchObject({
      sent: 86,
      lost: 2,
      reordered: 0,
      notSent: 4,
      oneWayLost: { forward: 1, reverse: 1, unknown: 0 },
      // 43 of each flow were sent.
      flows: [
        { sent: 43, lost: 1, rtt: { minNs: ms(250), sumNs: ms(42 * 250) } },
        { sent: 43, lost: 1, rtt: { minNs: ms(10), sumNs: ms(42 * 10) } },
      ],
      ipdv: { sumAbsNs: 0 },
      interarrivalJitterNs: 0,
      // Of flow 0 only.
      oneWayDelay: { count: 42, forwardPdvSumNs: 0 },
    });
  });

  it.each([
    [
      'whose clock is set by an hour in the middle of an interval',
      (seq: number) => (seq < 5 ? 0 : ms(3_600_000)),
      (seq: number) => seq,
    ],
    // NTP goes from 1900 to 2036: farther away than any clock is.
    ['whose clock is far from ours', () => -ms(120 * 366 * 86_400_000), (seq: number) => seq],
    ['that numbers from one end to the other', () => 0, (seq: number) => (seq % 2 === 0 ? 0 : 2 ** 32 - 1)],
  ])('makes a report that can be sent of what a reflector says %s', (_what, clockNs, numberOf) => {
    onSend = (seq) => {
      send(seq);
      clock.after(10, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.reflected(seq, numberOf(seq), clock.monoNs() + clockNs(seq), Number.NaN);
      });
    };
    const record = closeInterval();
    expect(record).toMatchObject({ sent: 10, lost: 0 });
    const report = reportOf([record]);
    expect(decodeReport(encodeReport(report)).records[0]).toMatchObject({ sent: 10, lost: 0 });
  });

  it('tells delay by direction, whatever the reflector’s clock shows', () => {
    // 4 ms there and 6 back; every other probe waits 3 ms on the way there. The other clock is a minute ahead.
    onSend = (seq) => {
      send(seq);
      const there = (seq % 2 === 0 ? 4 : 7) * NS_PER_MS;
      const sentNs = clock.monoNs();
      clock.after(there / NS_PER_MS + 6, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.reflected(seq, seq, sentNs + there + 60e9, Number.NaN);
      });
    };
    expect(closeInterval().oneWayDelay).toEqual({
      count: 10,
      forwardPdvSumNs: 15 * NS_PER_MS,
      reversePdvSumNs: 0,
      forwardChangeNs: 0,
      reverseChangeNs: 0,
      // (4 - 6) / 2 ms beside a minute; the round trip allows for 5 ms either way.
      clockOffsetNs: 60e9 - NS_PER_MS,
      clockErrorNs: 5 * NS_PER_MS,
    });
  });

  it('takes loss towards another’s responder for unknown until its numbers are not just ours', () => {
    makeTowardsResponder();
    // Of 0 to 9, 4 is lost and the others are repeated. From 11 on it counts by itself; 10 and 15 never reach it.
    onSend = (seq) => {
      send(seq);
      if (seq === 4 || seq === 10 || seq === 15) return;
      clock.after(10, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.reflected(seq, seq > 15 ? seq - 2 : seq > 10 ? seq - 1 : seq, Number.NaN, Number.NaN);
      });
    };
    const first = intervals.current;
    clock.advanceNs(first.endNs - clock.monoNs());
    intervals.advance();
    expect(session.close(first)).toMatchObject({
      sent: 10,
      lost: 1,
      oneWayLost: { forward: 0, reverse: 0, unknown: 1 },
    });
    clock.advance(10_950);
    expect(session.close(intervals.current)).toMatchObject({
      lost: 2,
      oneWayLost: { forward: 1, reverse: 0, unknown: 1 },
    });
  });

  /** A session towards somebody else's responder, of which `closeNext` closes one interval after the other. */
  function makeTowardsResponder(): void {
    schedule.clear();
    const path = { ...PLANNED.path, dstKind: 'responder' as const };
    session = new Session({ ...PLANNED, path }, 'd1', 2, 10_000, prober(false), {
      clock,
      budget: new SendBudget(0),
      intervalAt: () => intervals.current,
      countBytes: () => undefined,
      ...instrument,
    });
    schedule.add(session);
  }

  function closeNext() {
    const span = intervals.current;
    clock.advanceNs(span.endNs - clock.monoNs());
    intervals.advance();
    clock.advance(950);
    return session.close(span);
  }

  it('tells the directions towards a stateless responder by the counts that it says', () => {
    makeTowardsResponder();
    // Both counts cross the end of 32 bits. 3 is lost on the way there, 6 on the way back, 7 is received and not answered.
    let received = 2 ** 32 - 5;
    let answered = 2 ** 32 - 2;
    let says = true;
    onSend = (seq) => {
      send(seq);
      if (seq === 3) return;
      received = (received + 1) >>> 0;
      if (seq === 7) return;
      answered = (answered + 1) >>> 0;
      if (seq === 6) return;
      const told = says ? ([received, answered] as const) : [];
      clock.after(10, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.reflected(seq, seq, Number.NaN, Number.NaN, ...told);
      });
      // 2 is copied on the way back, 5 on the way there.
      if (seq !== 2 && seq !== 5) return;
      if (seq === 5) received = (received + 1) >>> 0;
      if (seq === 5) answered = (answered + 1) >>> 0;
      const again = received;
      clock.after(20, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.repeated(seq, seq, again);
      });
    };
    expect(closeNext()).toMatchObject({ lost: 3, duplicates: 2, oneWayLost: { forward: 1, reverse: 1, unknown: 1 } });
    // 12 is lost on the way there, and then it says no more what it counts.
    const usual = onSend;
    onSend = (seq) => {
      if (seq !== 12) usual(seq);
      else send(seq);
      says = seq < 15;
    };
    expect(closeNext()).toMatchObject({ lost: 1, oneWayLost: { forward: 0, reverse: 0, unknown: 1 } });
  });

  it('does not take a responder’s numbers for counts that it no longer says', () => {
    makeTowardsResponder();
    // What it counts is two less than what it numbers. 12, 13 and 24 are lost on the way there; from 15 on it says no counts.
    let reached = 100;
    onSend = (seq) => {
      send(seq);
      if (seq === 12 || seq === 13 || seq === 24) return;
      const number = reached++;
      clock.after(10, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.reflected(seq, number, Number.NaN, Number.NaN, ...(seq < 15 ? [number - 2, number - 2] : []));
      });
    };
    expect(closeNext()).toMatchObject({ lost: 0, oneWayLost: { forward: 0, reverse: 0, unknown: 0 } });
    expect(closeNext()).toMatchObject({ lost: 2, oneWayLost: { forward: 0, reverse: 0, unknown: 2 } });
    expect(closeNext()).toMatchObject({ lost: 1, oneWayLost: { forward: 1, reverse: 0, unknown: 0 } });
  });

  it('counts octets for its uplink', () => {
    onSend = (seq) => {
      send(seq);
      events.wireBytes(128);
    };
    clock.advance(1_000);
    expect(bytes).toEqual([['isp', 128]]);
  });

  it('keeps out of the statistics what the probe itself delayed, and counts it', () => {
    onSend = (seq) => {
      send(seq);
      clock.after(40, () => events.reply(seq, 1, seq, clock.monoNs(), 0, seq % 5 === 0));
    };
    // Numbers 0 and 5; number 10 is sent in the next interval, before this one closes.
    expect(closeInterval()).toMatchObject({
      sent: 8,
      lost: 0,
      notSent: 0,
      contaminated: 2,
      rtt: { count: 8, maxNs: ms(40) },
    });
    expect(contaminated).toBe(3);
  });

  it('tells the class in which the last answer to a probe of the interval came', () => {
    onSend = (seq) => {
      send(seq);
      // Bleached from number 6 on; number 9 is answered after its interval has ended, as it was sent.
      clock.after(seq === 9 ? 850 : 5, () => {
        events.reply(seq, 1, seq, clock.monoNs(), 0);
        events.seenClass(seq, seq < 6 || seq === 9 ? 46 : 0);
      });
    };
    expect(closeInterval()).toMatchObject({ sent: 10, lost: 0, seenDscp: 46 });
    expect(closeInterval()).toMatchObject({ sent: 10, lost: 0, seenDscp: 0 });
    onSend = send;
    closeInterval();
    expect(closeInterval()).not.toHaveProperty('seenDscp');
  });

  it('calls nothing lost whose answer it may have missed itself', () => {
    onSend = (seq) => {
      send(seq);
      // Number 3 is read long after its time.
      if (seq === 3) clock.after(1_500, () => events.reply(seq, 1, seq, clock.monoNs(), 0, true));
    };
    // Sends are a second apart from some phase on; the queue overflowed while those of the first half were out.
    const fullUntilNs = intervals.current.startNs + ms(5_000);
    missed = (sentNs) => sentNs < fullUntilNs;
    expect(closeInterval()).toMatchObject({ sent: 5, lost: 5, late: 0, notSent: 0, contaminated: 5 });
    expect(contaminated).toBe(5);
  });

  it('reads the answers that wait before it gives a probe up', () => {
    const unread: (() => void)[] = [];
    onSend = (seq) => {
      send(seq);
      const receivedNs = clock.monoNs() + ms(20);
      unread.push(() => events.reply(seq, 1, seq, receivedNs, 0));
    };
    onDrain = () => {
      for (const read of unread.splice(0)) read();
    };
    clock.advance(9_500);
    onDrain();
    expect(session.close(intervals.current)).toMatchObject({ lost: 0, late: 0, rtt: { minNs: ms(20), maxNs: ms(20) } });
  });

  it('takes a send that is confirmed later, and one that never is for a local error', () => {
    onSend = (seq) => {
      if (seq === 4) return;
      const sentNs = clock.monoNs();
      clock.after(8, () => events.sent(seq, sentNs, 1, seq));
      answerAfter(seq, 30);
    };
    expect(closeInterval()).toMatchObject({ sent: 9, lost: 0, notSent: 1, rtt: { minNs: ms(30), maxNs: ms(30) } });
  });
});
