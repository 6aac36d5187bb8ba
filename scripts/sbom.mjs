/**
 * `npm run sbom`: what the products are made of, as a bill of materials (CycloneDX, `.cache/sbom.cdx.json`), with the licences that may
 * be shipped, every direct version pinned, and no advisory of high severity where the registry knows of advisories. Where it does not, that
 * is a warning; with `--strict` an error.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const isStrict = process.argv.includes('--strict');
const root = fileURLToPath(new URL('..', import.meta.url));
const SBOM = join(root, '.cache', 'sbom.cdx.json');
const WORKSPACES = ['.', 'shared', 'probe', 'collector', 'lab'];
/** Permissive ones: none asks anything of who ships the product beyond naming it. */
const LICENCES = new Set([
  'MIT',
  'Unlicense',
  'ISC',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  '0BSD',
  'BlueOak-1.0.0',
  'Python-2.0',
]);

/** @param {string[]} args */
function npm(args) {
  const { status, stdout, stderr } = spawnSync('npm', args, { cwd: root, encoding: 'utf8', maxBuffer: 64 << 20 });
  return { status, stdout, stderr };
}

/** @type {string[]} */
const problems = [];

for (const workspace of WORKSPACES) {
  const file = join(root, workspace, 'package.json');
  const { dependencies = {}, devDependencies = {} } =
    /** @type {{ dependencies?: Record<string, string>, devDependencies?: Record<string, string> }} */ (
      JSON.parse(readFileSync(file, 'utf8'))
    );
  for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies })) {
    if (!/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version)) problems.push(`${file}: ${name} is not pinned: ${version}`);
  }
}

const bill = npm(['sbom', '--package-lock-only', '--sbom-format', 'cyclonedx', '--omit', 'dev']);
if (bill.status !== 0) {
  problems.push(`no bill of materials: ${bill.stderr.trim()}`);
} else {
  const { components } =
    /** @type {{ components: { name: string, version: string, purl: string, licenses?: { license?: { id?: string, name?: string }, expression?: string }[] }[] }} */ (
      JSON.parse(bill.stdout)
    );
  mkdirSync(join(root, '.cache'), { recursive: true });
  writeFileSync(SBOM, bill.stdout);
  const foreign = components.filter(({ purl }) => !purl.startsWith('pkg:npm/%40wanscope/'));
  for (const { name, version, licenses = [] } of foreign) {
    const named = licenses.map(({ license, expression }) => license?.id ?? license?.name ?? expression ?? '');
    const isFine = named.some((text) => text.split(/ OR |[()]/).some((one) => LICENCES.has(one.trim())));
    if (!isFine)
      problems.push(`${name}@${version}: licence ${named.join(', ') || 'unknown'} is not among those allowed`);
  }
  console.log(`${foreign.length} packages are shipped; bill of materials: .cache/sbom.cdx.json`);
}

const audit = npm(['audit', '--omit', 'dev', '--audit-level', 'high', '--json']);
const answer = /** @type {{ metadata?: { vulnerabilities: Record<string, number> }, error?: { summary?: string } }} */ (
  JSON.parse(audit.stdout || '{}')
);
if (answer.metadata === undefined) {
  const why = 'advisories: NOT CHECKED: this registry does not answer for them; run this where another one does';
  // As an annotation where a workflow runs this, so that it is seen.
  console.error(process.env['GITHUB_ACTIONS'] === 'true' ? `::warning::${why}` : `WARNING: ${why}`);
  if (isStrict) problems.push('--strict: advisories have to be checked');
} else {
  const { high = 0, critical = 0 } = answer.metadata.vulnerabilities;
  console.log(`advisories: ${JSON.stringify(answer.metadata.vulnerabilities)}`);
  if (high + critical > 0) problems.push(`${high} high and ${critical} critical advisories: npm audit --omit dev`);
}

for (const problem of problems) console.error(problem);
process.exitCode = problems.length > 0 ? 1 : 0;
