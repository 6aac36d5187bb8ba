import { Writable } from 'node:stream';
import { expect, test, vi } from 'vitest';
import { outliveReaders } from './broken-pipe.ts';

const failing = (code: string): Writable =>
  new Writable({ write: (_chunk, _encoding, done) => done(Object.assign(new Error(code), { code })) });

test('a reader that is gone ends nothing, and is told once', async () => {
  const gone = vi.fn();
  const stream = failing('EPIPE');
  outliveReaders([stream], gone);
  stream.write('a');
  await new Promise((resolve) => setImmediate(resolve));
  stream.write('b');
  await new Promise((resolve) => setImmediate(resolve));
  expect(gone).toHaveBeenCalledTimes(1);
});

test('another failure is one', () => {
  const stream = failing('ENOSPC');
  outliveReaders([stream]);
  expect(() => stream.emit('error', Object.assign(new Error('full'), { code: 'ENOSPC' }))).toThrow('full');
});
