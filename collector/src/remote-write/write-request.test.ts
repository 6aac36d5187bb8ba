import { uncompress } from 'snappyjs';
import { expect, test } from 'vitest';
import { encodeUncompressed, encodeWriteRequest, seriesOf, STALE } from './write-request.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

test('a request is what the definition of Protocol Buffers says, octet for octet', () => {
  const series = seriesOf('up', { job: 'w' });
  // __name__="up": 0a 08 "__name__" 12 02 "up", in a field 1 of 14 octets; job="w": 0a 03 "job" 12 01 "w", of 8.
  const labels = '0a0e' + '0a085f5f6e616d655f5f' + '12027570' + '0a08' + '0a036a6f62' + '120177';
  expect(hex(series.labelBytes)).toBe(labels);
  // 1.5 is 3ff8000000000000, least octet first; 300 is ac 02.
  const first = '120c' + '09000000000000f83f' + '10ac02';
  // 1700000000000 ms = 0x18bcfe56800: 7 bits at a time, from the least: 00 50 79 67 fc 31 1 -> 80 d0 95 ff bc 31.
  const second = '1210' + '090000000000000000' + '1080d095ffbc31';
  const body = labels + first + second;
  expect(
    hex(
      encodeUncompressed([
        { series, timestampMs: 300, value: 1.5 },
        { series, timestampMs: 1_700_000_000_000, value: 0 },
      ]),
    ),
  ).toBe('0a' + (body.length / 2).toString(16) + body);
});

test('labels are sorted by name, and those without a value are left out', () => {
  const { labelBytes } = seriesOf('m', { b: '1', a: '2', empty: '' });
  const text = Buffer.from(labelBytes).toString('latin1');
  // A name is followed by its value's tag.
  const at = ['__name__', 'a', 'b'].map((name) => text.indexOf(`${name}\u0012`));
  expect(at.every((place) => place > 0)).toBe(true);
  expect(at).toEqual([...at].sort((x, y) => x - y));
  expect(text).not.toContain('empty');
});

test('samples of one series are together, each series once', () => {
  const [a, b] = [seriesOf('a', {}), seriesOf('b', {})];
  const bytes = encodeUncompressed([
    { series: a, timestampMs: 1, value: 1 },
    { series: b, timestampMs: 1, value: 1 },
    { series: a, timestampMs: 2, value: 1 },
  ]);
  expect(Buffer.from(bytes).toString('latin1').split('__name__')).toHaveLength(3);
});

test('the compressed request holds the same octets', () => {
  const series = seriesOf('wan_backfill_probes_sent', { src_site: 'a'.repeat(60) });
  const samples = Array.from({ length: 500 }, (_, i) => ({ series, timestampMs: 1e12 + i * 10_000, value: i % 7 }));
  const compressed = encodeWriteRequest(samples);
  expect(hex(uncompress(compressed))).toBe(hex(encodeUncompressed(samples)));
  expect(compressed.length).toBeLessThan(encodeUncompressed(samples).length);
});

test('a series that has ended is said to have by the one NaN that says so', () => {
  const series = { labelBytes: Buffer.alloc(0) };
  // 7ff0000000000002, least octet first; at 1 ms.
  expect(hex(encodeUncompressed([{ series, timestampMs: 1, value: STALE }]))).toBe(
    '0a0d' + '120b' + '090200000000' + '00f07f' + '1001',
  );
});
