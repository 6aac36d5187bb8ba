/**
 * `npm run test:faults`: real processes, hurt by a seeded schedule, until so many kills are done or the time is over.
 *
 *   npm run test:faults -- [--seed N] [--points 1000] [--minutes M] [--probes 3] [--first-round R]
 *
 * Exit code 1 and the state kept when the invariant of docs/delivery.md does not hold.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Runner } from './runner.ts';
import { scheduleOf } from './schedule.ts';
import { hasClocks, World } from './world.ts';

const KILLS_A_ROUND = 25;
const INSIDE = '--inside';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    points: { type: 'string', default: '1000' },
    minutes: { type: 'string', default: '600' },
    probes: { type: 'string', default: '3' },
    'first-round': { type: 'string', default: '0' },
    verbose: { type: 'boolean', default: false },
    inside: { type: 'boolean', default: false },
  },
});

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Everything it makes is in namespaces that end with it: network, mounts, processes. */
function runInside(): number {
  const isRoot = process.getuid?.() === 0;
  const run = spawnSync(
    'unshare',
    [
      ...(isRoot ? [] : ['--user', '--map-root-user']),
      ...['--net', '--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child', '--mount-proc'],
      ...[process.execPath, fileURLToPath(import.meta.url), INSIDE, ...process.argv.slice(2)],
    ],
    { stdio: 'inherit' },
  );
  if (run.error !== undefined) throw run.error;
  return run.status ?? 1;
}

async function run(): Promise<number> {
  const seed = Number(values.seed);
  const points = Number(values.points);
  const untilMs = Date.now() + Number(values.minutes) * 60_000;
  for (const command of ['ip link set lo up', 'mount -t tmpfs tmpfs /dev/shm']) {
    const [program, ...args] = command.split(' ');
    const done = spawnSync(program!, args, { stdio: 'inherit' });
    if (done.status !== 0) throw new Error(`${command} failed`);
  }
  const directory = mkdtempSync(join(tmpdir(), 'wan-faults-'));
  say(
    `seed ${seed}, ${points} kills, ${values.probes} probes, clock steps ${hasClocks() ? 'too' : 'not (no libfaketime)'}`,
  );
  const world = new World(directory, Number(values.probes));
  await world.open();
  const runner = new Runner(world, seed, (line) => {
    if (values.verbose) say(line);
  });
  const totals = new Map<string, number>();
  let kills = 0;
  let violations: readonly string[] = [];
  for (let round = Number(values['first-round']); kills < points && Date.now() < untilMs; round += 1) {
    const roundSeed = seed * 10_000 + round;
    const steps = scheduleOf({
      seed: roundSeed,
      kills: Math.min(KILLS_A_ROUND, points - kills),
      probes: world.probes.length,
      hasClocks: hasClocks(),
    });
    const result = await runner.round(steps, untilMs);
    for (const [name, count] of result.done) {
      totals.set(name, (totals.get(name) ?? 0) + count);
      if (name.startsWith('kill ')) kills += count;
    }
    violations = result.violations;
    const { printed, settleMs, missed } = result;
    say(
      `round ${round}: ${kills} kills, ${printed} intervals closed, settled in ${settleMs} ms, ${missed.length} faults came to nothing, ${violations.length} violations`,
    );
    if (values.verbose) for (const line of missed) say(`  ${line}`);
    if (violations.length === 0) continue;
    for (const violation of violations) say(`  ${violation}`);
    writeFileSync(
      join(directory, 'violations.json'),
      JSON.stringify({ seed, round, steps, violations, missed }, null, 1),
    );
    const kept = mkdtempSync(join(tmpdir(), 'wan-faults-kept-'));
    cpSync(directory, kept, { recursive: true, filter: (path) => !path.endsWith('.sock') });
    say(`again: npm run test:faults -- --seed ${seed} --points ${points}; state kept in ${kept}`);
    break;
  }
  await Promise.all([...world.probes, world.collector].map((program) => program.stop()));
  await world.broker.stop();
  world.close();
  spawnSync(
    'umount',
    [...world.probes, world.collector].map(({ stateDirectory }) => stateDirectory),
  );
  rmSync(directory, { recursive: true, force: true });
  const list = [...totals].sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [name, count] of list) say(`  ${String(count).padStart(5)} ${name}`);
  say(`${kills} kills, ${violations.length === 0 ? 'each interval was counted once or is in a ledger' : 'FAILED'}`);
  return violations.length === 0 ? 0 : 1;
}

process.exitCode = values.inside ? await run() : runInside();
