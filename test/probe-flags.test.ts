/** What Node is told so that a probe stays small is the same wherever one is started. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { PROBE_NODE_FLAGS } from '@wanscope/lab';

const read = (path: string): string => readFileSync(fileURLToPath(new URL(`../${path}`, import.meta.url)), 'utf8');
const flags = PROBE_NODE_FLAGS.join(' ');

test('the program asks for it', () => {
  expect(read('probe/src/main.ts').split('\n')[0]).toBe(`#!/usr/bin/env -S node ${flags}`);
});

test('the image gives it, and has a code cache for what else it gives', () => {
  const dockerfile = read('deploy/compose/probe.Dockerfile');
  const entry = /^ENTRYPOINT (\[(?:[^\]]|\n)*\])/m.exec(dockerfile)?.[1] ?? '[]';
  const command = JSON.parse(entry.replace('\\\n', '')) as string[];
  expect(command.slice(1, 1 + PROBE_NODE_FLAGS.length)).toEqual(PROBE_NODE_FLAGS);
  const further = command.slice(1 + PROBE_NODE_FLAGS.length, -1);
  expect(dockerfile).toContain(` node probe/bundle.mjs ${further.join(' ')} \\\n`);
});

test('the router guide names it', () => {
  expect(read('docs/router.md')).toContain(`node ${flags}`);
});
