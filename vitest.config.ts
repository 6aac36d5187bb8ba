import { defineConfig } from 'vitest/config';

const source = (path: string): string => new URL(path, import.meta.url).pathname;

/** Unit tests run on the sources; live tests start the built programs and need privileges or real servers. */
export default defineConfig({
  resolve: {
    alias: [
      { find: /^@wanscope\/shared\/testing$/, replacement: source('shared/src/testing/index.ts') },
      { find: /^@wanscope\/(shared|probe|collector|lab)$/, replacement: source('$1/src/index.ts') },
    ],
  },
  test: {
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['{shared,probe,collector,lab}/src/**/*.test.ts', 'test/**/*.test.ts'],
          exclude: ['**/*.live.test.ts', '**/dist/**', '**/node_modules/**'],
        },
      },
      {
        extends: true,
        test: {
          name: 'live',
          include: ['{shared,probe,collector,lab,test}/**/*.live.test.ts'],
          exclude: ['**/dist/**', '**/node_modules/**'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
          fileParallelism: false,
        },
      },
    ],
  },
});
