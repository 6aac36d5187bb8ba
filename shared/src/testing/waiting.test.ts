import { expect, it } from 'vitest';
import { freePort } from './waiting.ts';

it('a port is given once, also when nothing is bound to it', async () => {
  const ports: number[] = [];
  for (let i = 0; i < 1_000; i += 1) ports.push(await freePort());
  expect(new Set(ports).size).toBe(1_000);
});
