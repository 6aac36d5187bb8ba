/** Does to a world what a schedule says, watches it meanwhile, and holds what is left against the invariant. */
import { watch } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatIdentity } from '@wanscope/shared';
import { Random } from '@wanscope/shared/testing';
import { unsoundTotals, violationsOf } from './checker.ts';
import type { Gate, Watcher } from './gate.ts';
import { Meddler } from './meddler.ts';
import type { Fault, Step } from './schedule.ts';
import { wipe, type Probe, type World } from './world.ts';

/** Steps under way at once. */
const MAX_AT_ONCE = 5;
const LOOK_EVERY_MS = 500;
const AIM_PATIENCE_MS = 3_000;
/** The collector writes a snapshot ten seconds after its start, and commits every ten seconds. */
const SLOW_AIM_PATIENCE_MS = 11_000;
const SETTLE_PATIENCE_MS = 120_000;
/** Left in a spool right after a commit: closed a moment ago, or on its way. */
const A_FEW = 3;
const COUNTED_EVERY_MS = 400;

const REPORT_UP = Buffer.from('HPUB wan.v1.report.');
/** The answer to the ping behind a report. */
const PONG_DOWN = Buffer.from('PONG\r\n');
const COMMIT_DOWN = Buffer.from('MSG wan.v1.commit.');
const COMMIT_UP = Buffer.from('PUB wan.v1.commit.');
const REPORT_DOWN = Buffer.from('MSG wan.v1.report.');

type Kill = Extract<Fault, { kind: 'kill' }>;

export interface RoundResult {
  /** By what was done, how often. */
  readonly done: ReadonlyMap<string, number>;
  /** Steps that came to nothing, with why. */
  readonly missed: readonly string[];
  readonly violations: readonly string[];
  readonly printed: number;
  readonly settleMs: number;
}

/** What is collected while the collector is still starting. */
const NOTHING = '[]';

export class Runner {
  readonly #world: World;
  readonly #meddler: Meddler;
  readonly #log: (line: string) => void;
  #done = new Map<string, number>();
  #missed: string[] = [];
  #found: string[] = [];
  #allowed = new Set<string>();

  constructor(world: World, seed: number, log: (line: string) => void) {
    this.#world = world;
    this.#log = log;
    this.#meddler = new Meddler(
      new Random(seed ^ 0x5eed),
      world.probes.map(({ identity }) => identity),
    );
  }

  /**
   * Starts what does not run, does all steps, lets everything settle, stops all and checks. State stays for the next round.
   *
   * @param until no step begins after this moment of the wall clock, ms.
   */
  async round(steps: readonly Step[], untilMs: number): Promise<RoundResult> {
    this.#done = new Map();
    this.#missed = [];
    this.#found = [];
    this.#world.startAll();
    await this.#begun();
    const watching = new AbortController();
    const watched = this.#watchTotals(watching.signal);
    const running = new Set<Promise<void>>();
    for (const step of steps) {
      await sleep(step.afterMs);
      if (Date.now() > untilMs) break;
      while (running.size >= MAX_AT_ONCE) await Promise.race(running);
      const run = this.#do(step).finally(() => running.delete(run));
      running.add(run);
    }
    await Promise.all(running);
    const settleMs = await this.#settle();
    watching.abort();
    await watched;
    const printed = await this.#check();
    return { done: this.#done, missed: this.#missed, violations: this.#found, printed, settleMs };
  }

  // ---------------------------------------------------------------------------------------------------------- faults

  async #do(step: Step): Promise<void> {
    const name = nameOf(step.fault);
    try {
      this.#log(`${step.number} ${name}`);
      await this.#inflict(step.fault);
      this.#done.set(name, (this.#done.get(name) ?? 0) + 1);
    } catch (error) {
      // The broker was away for whom it concerned, most likely.
      this.#missed.push(`${step.number} ${name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  async #inflict(fault: Fault): Promise<void> {
    const { collector, collectorGate } = this.#world;
    switch (fault.kind) {
      case 'kill':
        await this.#kill(fault);
        return;
      case 'partition': {
        const gate = fault.probe === 'collector' ? collectorGate : this.#probe(fault.probe).gate;
        if (fault.how === 'cut') gate.cut();
        else gate.hold();
        await sleep(fault.forMs);
        gate.open();
        return;
      }
      case 'stop': {
        const program = fault.of === 'probe' ? this.#probe(fault.probe) : this.#world[fault.of];
        await program.alone(async () => {
          program.signal('SIGSTOP');
          await sleep(fault.forMs);
          program.signal('SIGCONT');
        });
        return;
      }
      case 'disk full': {
        const program = fault.of === 'probe' ? this.#probe(fault.probe) : collector;
        const work = async (): Promise<void> => {
          program.fillDisk(fault.leaving);
          await sleep(fault.forMs);
          await program.emptyDisk();
          // Until it is on disk again a kill would lose what no ledger can know.
          if (fault.of === 'probe') await sleep(2_500);
        };
        await (fault.of === 'probe' ? program.alone(work) : work());
        return;
      }
      case 'clock step': {
        const probe = this.#probe(fault.probe);
        // A start whose clock was ahead is taken for one that should be gone.
        if (fault.byS !== 0) this.#allowed.add('duplicate_identity');
        probe.stepClock(fault.byS);
        await sleep(fault.forMs);
        probe.stepClock(0);
        return;
      }
      case 'duplicates':
        await this.#meddler.duplicate(fault.count, fault.sameId);
        return;
      case 'reordered':
        await collector.alone(async () => {
          collector.signal('SIGSTOP');
          try {
            await sleep(fault.forMs);
            await this.#meddler.reorder(20);
          } finally {
            collector.signal('SIGCONT');
          }
        });
        return;
      case 'forged':
        await this.#meddler.forge(fault.what, fault.count);
        return;
      case 'purge':
        await this.#meddler.purge();
        return;
      case 'stream deleted':
        await this.#meddler.deleteStream();
        return;
    }
  }

  async #kill(kill: Kill): Promise<void> {
    const { broker } = this.#world;
    const { step, afterMs, downMs, wiped } = kill;
    const program = step.of === 'probe' ? this.#probe(kill.probe) : this.#world[step.of];
    await program.alone(async () => {
      if (step.at === 'start') {
        await program.kill();
        program.start();
      }
      const release = await this.#aim(kill);
      await sleep(afterMs);
      await program.kill();
      release();
      if (wiped) wipe(broker.stateDirectory);
      await sleep(downMs);
      program.start();
    });
  }

  /** Resolves when what the kill waits for is seen, or nothing of it comes. What is returned undoes what was held. */
  async #aim({ step, probe: number, passes }: Kill): Promise<() => void> {
    const probe = this.#probe(number);
    const { collector, collectorGate, probes } = this.#world;
    const all = probes.map(({ gate }) => gate);
    if (step.of === 'probe') {
      switch (step.at) {
        case 'any':
        case 'start':
          return () => undefined;
        case 'print':
          return fileChanges(probe.logFile, /./, AIM_PATIENCE_MS);
        case 'disk':
          return fileChanges(probe.spoolDirectory, /\.spool$/, AIM_PATIENCE_MS);
        case 'publish':
          return passing([probe.gate], [{ direction: 'up', octets: REPORT_UP }], passes, AIM_PATIENCE_MS);
        case 'pong':
          return passing([probe.gate], [{ direction: 'down', octets: PONG_DOWN }], passes, AIM_PATIENCE_MS);
        case 'commit':
          return passing([probe.gate], [{ direction: 'down', octets: COMMIT_DOWN }], passes, SLOW_AIM_PATIENCE_MS);
      }
    }
    if (step.of === 'collector') {
      switch (step.at) {
        case 'any':
        case 'start':
          return () => undefined;
        case 'report':
          return passing([collectorGate], [{ direction: 'down', octets: REPORT_DOWN }], passes, AIM_PATIENCE_MS);
        case 'journal':
          return fileChanges(collector.stateDirectory, /journal/, SLOW_AIM_PATIENCE_MS);
        case 'snapshot':
          return fileChanges(collector.stateDirectory, /snapshot/, SLOW_AIM_PATIENCE_MS);
        case 'commit':
          return passing([collectorGate], [{ direction: 'up', octets: COMMIT_UP }], passes, SLOW_AIM_PATIENCE_MS);
      }
    }
    switch (step.at) {
      case 'any':
        return () => undefined;
      case 'publish':
        return passing(all, [{ direction: 'up', octets: REPORT_UP }], passes, AIM_PATIENCE_MS);
      case 'pong':
        return passing(all, [{ direction: 'down', octets: PONG_DOWN }], passes, AIM_PATIENCE_MS);
    }
  }

  #probe(number: number): Probe {
    return this.#world.probes[number]!;
  }

  // -------------------------------------------------------------------------------------------------------- watching

  /** What holds at every moment. */
  async #watchTotals(signal: AbortSignal): Promise<void> {
    const { broker, collector, probes } = this.#world;
    while (!signal.aborted) {
      for (const program of [broker, collector, ...probes]) {
        if (!program.hasEnded) continue;
        this.#found.push(`${program.service.name} ended by itself:\n${program.service.logTail(20)}`);
        return;
      }
      for (const probe of this.#world.probes) {
        const totals = await probe.totals();
        const problem = totals === undefined ? undefined : unsoundTotals(totals);
        if (problem !== undefined) this.#found.push(`${formatIdentity(probe.identity)}: ${problem}`);
      }
      const counted = await this.#world.collected('wan_probe_reports_counted_total');
      for (const { labels, value } of counted) {
        const probe = this.#world.probes.find(({ identity }) => identity.site === labels['site']);
        const printed = probe?.printed().length ?? 0;
        if (value > printed) this.#found.push(`${labels['site']}: counted ${value} of ${printed} that were closed`);
      }
      await sleep(LOOK_EVERY_MS);
    }
  }

  /** Every path measures: what follows is not lost to a start that was never whole. */
  async #begun(): Promise<void> {
    const deadline = Date.now() + SETTLE_PATIENCE_MS;
    while (Date.now() < deadline) {
      const totals = await Promise.all(this.#world.probes.map((probe) => probe.totals()));
      const samples = await this.#world.collected('wan_path_probes_sent_total');
      if (totals.every((one) => one !== undefined) && samples.length > 0) return;
      await sleep(LOOK_EVERY_MS);
    }
    this.#found.push('probes and collector did not start');
  }

  /** All faults are over: every spool drains. @returns how long that took, ms. */
  async #settle(): Promise<number> {
    const startedMs = Date.now();
    const { broker, collector, collectorGate, probes } = this.#world;
    for (const gate of [collectorGate, ...probes.map((probe) => probe.gate)]) gate.open();
    for (const program of [broker, collector, ...probes]) {
      program.signal('SIGCONT');
      await program.emptyDisk();
      program.start();
    }
    for (const probe of probes) probe.stepClock(0);
    const left = new Map<string, string>();
    for (const probe of probes) left.set(formatIdentity(probe.identity), 'nothing is known');
    while (left.size > 0 && Date.now() - startedMs < SETTLE_PATIENCE_MS) {
      for (const probe of probes) {
        const name = formatIdentity(probe.identity);
        const totals = await probe.totals();
        if (totals !== undefined && totals.inSpool <= A_FEW) left.delete(name);
        else if (left.has(name)) left.set(name, JSON.stringify(totals));
      }
      await sleep(LOOK_EVERY_MS);
    }
    for (const [name, totals] of left) {
      this.#found.push(`${name}: its spool did not drain in ${SETTLE_PATIENCE_MS} ms: ${totals}`);
    }
    return Date.now() - startedMs;
  }

  /** Stops everything and checks what it left. @returns reports printed so far. */
  async #check(): Promise<number> {
    const { collector, probes } = this.#world;
    await Promise.all(probes.map((probe) => probe.stop()));
    // What the probes handed over last is read before the collector ends.
    const deadline = Date.now() + SETTLE_PATIENCE_MS;
    for (let before = '', now = NOTHING; (before !== now || now === NOTHING) && Date.now() < deadline;) {
      before = now;
      await sleep(COUNTED_EVERY_MS);
      now = JSON.stringify(
        await this.#world.collected('wan_path_probes_sent_total', 'wan_path_backfilled_probes_total'),
      );
    }
    if (collector.hasEnded || !(await collector.stop())) {
      const { ended } = collector.service;
      this.#found.push(
        `the collector ended with ${ended}, not when it was asked to:\n${collector.service.logTail(20)}`,
      );
      return 0;
    }
    const truth = await this.#world.collectorTruth();
    let printed = 0;
    for (const probe of probes) {
      const name = formatIdentity(probe.identity);
      const counted = truth.get(name);
      const history = {
        name,
        printed: probe.printed(),
        ends: probe.ends,
        kills: probe.kills,
        allowed: [...this.#allowed],
        spool: await probe.spool(),
        collector: counted ?? { counted: 0, sent: 0, hiddenRecords: 0, boots: new Map() },
      };
      printed += history.printed.length;
      this.#found.push(...violationsOf(history));
    }
    return printed;
  }
}

export function nameOf(fault: Fault): string {
  switch (fault.kind) {
    case 'kill':
      return `kill ${fault.step.of} at ${fault.step.at}${fault.wiped ? ', store wiped' : ''}`;
    case 'partition':
      return `partition of ${fault.probe === 'collector' ? 'the collector' : 'a probe'}, ${fault.how}`;
    case 'stop':
      return `${fault.of} stands still`;
    case 'disk full':
      return `disk full at a ${fault.of}`;
    case 'forged':
      return `forged: ${fault.what}`;
    case 'clock step':
    case 'duplicates':
    case 'reordered':
    case 'purge':
    case 'stream deleted':
      return fault.kind;
  }
}

/** Waits for a change of a file, or of one in a folder. */
async function fileChanges(path: string, name: RegExp, patienceMs: number): Promise<() => void> {
  try {
    const ended = AbortSignal.timeout(patienceMs);
    await new Promise<void>((resolve) => {
      const watcher = watch(path, { persistent: false }, (_event, file) => {
        if (file === null || name.test(file)) watcher.close();
      });
      watcher.on('close', resolve);
      watcher.on('error', () => watcher.close());
      ended.addEventListener('abort', () => watcher.close());
    });
  } catch {
    // It is not there yet: then the kill comes at once.
  }
  return () => undefined;
}

/** Waits until octets pass a gate. Unless they are to pass, they and what follows go nowhere until what is returned is called. */
async function passing(
  gates: readonly Gate[],
  wanted: readonly { readonly direction: 'up' | 'down'; readonly octets: Buffer }[],
  passes: boolean,
  patienceMs: number,
): Promise<() => void> {
  let isSeen = false;
  let see: () => void = () => undefined;
  const seen = new Promise<void>((resolve) => (see = resolve));
  const watcher: Watcher = (direction, octets) => {
    if (isSeen || !wanted.some((one) => one.direction === direction && octets.includes(one.octets))) return false;
    isSeen = true;
    see();
    return !passes;
  };
  const ends = gates.map((gate) => gate.watch(watcher));
  await Promise.race([seen, sleep(patienceMs)]);
  for (const end of ends) end();
  return () => {
    if (isSeen && !passes) for (const gate of gates) gate.drop();
  };
}
