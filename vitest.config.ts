import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

const source = (path: string): string => new URL(path, import.meta.url).pathname;

/** Of the probe's live tests, those that start programs and wait for them. */
const wholePrograms = [
  'probe/src/{spool,throughput}/*.live.test.ts',
  'probe/src/{agent,bundle,descriptors}.live.test.ts',
  'probe/src/probers/probers.live.test.ts',
];

/** Half a minute and more each: begun first, so that nothing else waits for them at the end; those that compute beside those that wait. */
const SLOWEST = [
  'late-data',
  'cluster',
  'stolen-router',
  'claims',
  'lab',
  'faults',
  'leaf',
  'end-to-end',
  'spool',
  'routes',
  'emulator',
  'pause',
  'identity',
  'alerting',
  'ways-out',
  'delivery',
  'direction',
  'state-files',
  'commit',
  'flows',
  'flood',
  'collector',
  'ensure',
  'page',
];

/** Tests of the emulated WAN over minutes of its time, and of what is asked of npm. */
const scenarios = [
  'lab/src/{lab,emulator}.live.test.ts',
  'test/attacks/reached-reflector.live.test.ts',
  'test/{alerting,direction,flood,flows,late-data,namespaces,pause,readdress,routes,sbom,throughput,ways-out}.live.test.ts',
];

/** For tests that wait for whole programs most of their time. */
const sideBySide = {
  // There is no module state: files may share their modules.
  isolate: false,
  // These start the built programs, so the build is there: it is loaded as it is, without another transformation.
  server: { deps: { external: [/\/(?:shared|probe|collector|lab)\/dist\//] } },
  // Waiting follows the pace of the machine and says what it waited for: these are for what hangs.
  testTimeout: 180_000,
  hookTimeout: 240_000,
  maxWorkers: 3,
};

/** The packages are what their sources say, without a build. */
const sources = {
  alias: [
    { find: /^@wanscope\/shared\/broken-pipe$/, replacement: source('shared/src/broken-pipe.ts') },
    { find: /^@wanscope\/shared\/(config|testing)$/, replacement: source('shared/src/$1/index.ts') },
    { find: /^@wanscope\/collector\/testing$/, replacement: source('collector/src/testing/index.ts') },
    { find: /^@wanscope\/(shared|probe|collector|lab)$/, replacement: source('$1/src/index.ts') },
  ],
};

class SlowestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const at = SLOWEST.findIndex((name) => moduleId.endsWith(`/${name}.live.test.ts`));
      return at < 0 ? SLOWEST.length : at;
    };
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}

/**
 * Unit tests run on the sources. Live tests start the built programs and need privileges or real servers: those of the
 * project `live` hold the instrument against a truth and have the machine to themselves; those of `system` wait for whole
 * programs most of their time, and run side by side; so do the `scenarios`, which take longer and are not part of `npm test`.
 */
export default defineConfig({
  test: {
    sequence: { sequencer: SlowestFirst },
    projects: [
      {
        extends: true,
        resolve: sources,
        test: {
          name: 'unit',
          // There is no module state: files may share their modules.
          isolate: false,
          // One less than there are processors is the default, which is one at a time where there are two.
          maxWorkers: '100%',
          include: ['{shared,probe,collector,lab}/src/**/*.test.ts', 'test/**/*.test.ts'],
          exclude: ['**/*.live.test.ts', '**/dist/**', '**/node_modules/**'],
          // Fuzzing of a few seconds must not fail on a machine that does other things: this is for what hangs.
          testTimeout: 120_000,
        },
      },
      {
        extends: true,
        resolve: sources,
        test: {
          name: 'live',
          include: ['{shared,probe}/**/*.live.test.ts', 'test/accuracy.live.test.ts'],
          exclude: [...wholePrograms, '**/dist/**', '**/node_modules/**'],
          testTimeout: 180_000,
          hookTimeout: 240_000,
          fileParallelism: false,
        },
      },
      {
        extends: true,
        test: {
          name: 'system',
          ...sideBySide,
          include: ['{collector,lab,test}/**/*.live.test.ts', ...wholePrograms],
          exclude: [...scenarios, 'test/accuracy.live.test.ts', '**/dist/**', '**/node_modules/**'],
        },
      },
      {
        extends: true,
        test: { name: 'scenarios', ...sideBySide, include: scenarios },
      },
    ],
  },
});
