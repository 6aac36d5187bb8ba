/** `npm start`: sets up what is missing, then runs the demo. Flags go to the demo: `npm start -- --branches 8`. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setup } from './setup.mjs';

const args = process.argv.slice(2);
const lab = fileURLToPath(new URL('../lab/dist/main.js', import.meta.url));
const asksHelp = args.includes('--help') || args.includes('-h');
try {
  // Help needs no build where there is one: another demo may be running from it.
  if (!asksHelp || !existsSync(lab)) setup('start');
} catch (error) {
  console.error(`setup: ${error instanceof Error ? error.message : String(error)}`);
  process.exit(1);
}
const child = spawn(process.execPath, [lab, 'demo', ...args], { stdio: 'inherit' });
// A terminal sends Ctrl-C to the demo as well; a second one does no harm. This process waits for it to finish.
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP']))
  process.on(signal, () => child.kill(signal));
child.on('exit', (code) => (process.exitCode = code ?? 1));
