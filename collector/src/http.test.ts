import { gunzipSync } from 'node:zlib';
import { expect, it } from 'vitest';
import type { Collector } from './collector.ts';
import { createWeb } from './http.ts';
import { silentLogger } from './log.ts';
import { WebGuard } from './web-guard.ts';

const TEXT = 'wan_path_probes_sent_total{network="default"} 1\n'.repeat(10_000);

/** What the web side needs of a collector to show metrics. */
const collector = {
  isReady: true,
  exposition: {
    registry: {
      contentType: 'text/plain; version=0.0.4',
      stream: async function* () {
        for (let at = 0; at < TEXT.length; at += 50_000) {
          await Promise.resolve();
          yield TEXT.slice(at, at + 50_000);
        }
      },
    },
  },
} as unknown as Collector;

const options = {
  guard: new WebGuard(undefined, silentLogger),
  telemetryPath: '/metrics',
  uiFolders: [],
  isOwnHost: () => true,
  serves: 'metrics',
} as const;

it.each([
  ['gzip', true],
  ['gzip;q=1.0, *;q=0.5', true],
  ['deflate, GZIP', true],
  ['*', true],
  ['gzip;q=0', false],
  ['gzip;q=0, *', false],
  ['identity', false],
  [undefined, false],
])('compresses the metrics for Accept-Encoding %s: %s', async (header, isZipped) => {
  const app = await createWeb({ ...options, collector });
  const headers = header === undefined ? {} : { 'accept-encoding': header };
  const { rawPayload, headers: answered } = await app.inject({ url: '/metrics', headers });
  expect(answered['content-encoding']).toBe(isZipped ? 'gzip' : undefined);
  expect(answered.vary).toBe('accept-encoding');
  expect((isZipped ? gunzipSync(rawPayload) : rawPayload).toString() === TEXT).toBe(true);
  if (isZipped) expect(rawPayload.length).toBeLessThan(TEXT.length / 20);
  await app.close();
});

it('says why it is not ready, and goes on being healthy and showing metrics', async () => {
  const notReadyReason = 'there is no connection to the broker since 2026-01-05T12:00:00.000Z';
  const app = await createWeb({
    ...options,
    collector: Object.create(collector, { notReadyReason: { value: notReadyReason } }) as Collector,
  });
  const [ready, healthy, metrics] = await Promise.all(
    ['/-/ready', '/-/healthy', '/metrics'].map((url) => app.inject({ url })),
  );
  expect([ready!.statusCode, ready!.body]).toEqual([503, `not ready: ${notReadyReason}\n`]);
  expect([healthy!.statusCode, metrics!.statusCode]).toEqual([200, 200]);
  await app.close();
});
