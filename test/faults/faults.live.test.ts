/** A short run of `npm run test:faults`: the same every time, a kill at every other step of a report's life. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { namespacesUnavailable } from '@wanscope/lab';
import { expect, test } from 'vitest';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;
const KILLS = 5;
/** Usually 35 s; a spool that does not drain is waited for, so that the run can say so. */
const PATIENCE_MS = 240_000;

test.skipIf(unavailable !== undefined)(
  `each interval is counted once or is in a ledger, whatever is killed, cut off, filled or sent twice${why}`,
  { timeout: PATIENCE_MS + 10_000 },
  () => {
    const main = fileURLToPath(new URL('dist/main.js', import.meta.url));
    const args = [main, '--seed', '1479', '--points', String(KILLS), '--verbose'];
    const run = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: PATIENCE_MS, killSignal: 'SIGKILL' });
    const output = `${run.stdout}\n${run.stderr}`;
    expect(run.status, output).toBe(0);
    expect(output).toContain(`${KILLS} kills, each interval was counted once or is in a ledger`);
  },
);
