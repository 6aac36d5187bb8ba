/**
 * `npm run test:cluster`: three brokers and three collectors under a thousand simulated probes, restarted one after the other, then
 * killed at random, then wiped. Says what is missing, what was counted twice, and for how long anything on `/metrics` stood still.
 *
 *   npm run test:cluster -- [--probes 1000] [--sites 200] [--interval 10] [--restarts 1] [--kills 5] [--seed N] [--plain]
 *
 * `--plain`: brokers are stopped without handing over what they lead first. Exit code 1 when something is missing or double.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { until } from '@wanscope/collector/testing';
import { Random } from '@wanscope/shared/testing';
import { Staleness, World, type Balance } from './world.ts';

const { values } = parseArgs({
  options: {
    probes: { type: 'string', default: '1000' },
    sites: { type: 'string', default: '200' },
    interval: { type: 'string', default: '10' },
    kills: { type: 'string', default: '5' },
    restarts: { type: 'string', default: '1' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    plain: { type: 'boolean', default: false },
  },
});

/** What is looked at is some megabytes of text, and the looking is not to be what is measured. */
const LOOK_EVERY_MS = 2_000;
const SETTLE_MS = 300_000;
const PLANS_MS = 180_000;

const beganMs = Date.now();

function say(line: string): void {
  process.stdout.write(`${((Date.now() - beganMs) / 1_000).toFixed(0).padStart(5)} s  ${line}\n`);
}

async function main(): Promise<number> {
  const intervalMs = Number(values.interval) * 1_000;
  const random = new Random(Number(values.seed));
  const probes = Number(values.probes);
  const world = new World({ probes, sites: Number(values.sites), brokers: 3, partitions: 3, intervalMs });
  const problems: string[] = [];
  const stop = (): void => {
    void world.stop().finally(() => process.exit(1));
  };
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);

  const phase = async (what: string, run: () => Promise<void>): Promise<void> => {
    say(`${what} …`);
    const staleness = new Staleness(world);
    staleness.start(LOOK_EVERY_MS);
    await sleep(2 * intervalMs);
    await run();
    await sleep(2 * intervalMs);
    const { worstMs, worst, over } = await staleness.stop();
    const balance = await world.settled(SETTLE_MS);
    const isGood = report(what, balance, worstMs, `${worst}; ${over} probes over two intervals`, intervalMs);
    const back = world.fleet.probes.reduce((sum, { plansBack }) => sum + plansBack, 0);
    if (back > 0) say(`  ${back} plans went back to an older version`);
    if (!isGood || back > 0) problems.push(what);
    world.fleet.begin();
  };

  try {
    say(`${probes} probes, interval ${values.interval} s, seed ${values.seed}`);
    await world.start();
    await until(
      'every probe to have a plan',
      () => Promise.resolve(world.fleet.probes.every(({ planVersion }) => planVersion > 0)),
      PLANS_MS,
    );
    await sleep(2 * intervalMs);
    await phase('nothing happens', () => Promise.resolve());
    await phase('three brokers and three collectors restarted, one after the other', async () => {
      for (let round = 0; round < Number(values.restarts); round += 1) {
        say('  brokers …');
        await world.rollBrokers(values.plain ? 'SIGTERM' : 'SIGUSR2');
        say('  collectors …');
        await world.rollCollectors('SIGTERM');
      }
    });
    await phase(`a broker and the planning collector killed, ${values.kills} times`, async () => {
      for (let kill = 0; kill < Number(values.kills); kill += 1) {
        await until('one collector to lead', async () => (await world.leaders()).length === 1, PLANS_MS);
        const [leader = 0] = await world.leaders();
        const broker = random.int(3);
        await world.brokers.stopOne(broker, 'SIGKILL');
        await sleep(random.int(3_000));
        await world.restartCollector(leader, 'SIGKILL');
        world.brokers.startOne(broker);
        await world.brokers.untilHealthy(broker);
      }
    });
    await phase('all brokers killed and their stores wiped', () => world.loseEverything());
  } finally {
    await world.stop();
  }
  say(problems.length === 0 ? 'good' : `NOT GOOD: ${problems.join(', ')}`);
  return problems.length === 0 ? 0 : 1;
}

function report(what: string, balance: Balance, worstMs: number, worst: string, intervalMs: number): boolean {
  const { produced, missing, double, sentMissing, sentDouble, ledgered, held } = balance;
  say(`${what}:`);
  say(`  intervals closed ${produced}: missing ${missing}, double ${double}, given up ${ledgered}, still held ${held}`);
  say(`  probes in them: missing ${sentMissing}, double ${sentDouble}`);
  const [seconds, intervals] = [(worstMs / 1_000).toFixed(1), (worstMs / intervalMs).toFixed(2)];
  say(`  what /metrics shows of a probe stood still for at most ${seconds} s, ${intervals} intervals (${worst})`);
  return missing + double + sentMissing + sentDouble + ledgered + held === 0;
}

main().then(
  (exitCode) => process.exit(exitCode),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.exit(1);
  },
);
