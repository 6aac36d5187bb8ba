/** The fuzzer and the parsers' sources as one file, so that coverage is of them and of nothing else. */
import { fileURLToPath } from 'node:url';

/** @param {string} path */
const fromRoot = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

export default {
  input: { main: fromRoot('test/fuzz/main.ts'), watcher: fromRoot('test/fuzz/watcher.ts') },
  platform: 'node',
  resolve: {
    alias: {
      '@wanscope/shared/testing': fromRoot('shared/src/testing/index.ts'),
      '@wanscope/shared/config': fromRoot('shared/src/config/index.ts'),
      '@wanscope/shared': fromRoot('shared/src/index.ts'),
    },
  },
  external: [/^(?!@wanscope\/)[a-z@]/],
  output: { dir: fromRoot('.cache/fuzz'), format: 'esm', sourcemap: true },
};
