import { uncompress } from 'snappyjs';
import { expect, test } from 'vitest';
import { Delivery, outcomeOf, parseRetryAfterMs, type Post, type PostOutcome } from './delivery.ts';
import { seriesOf, type WriteSample } from './write-request.ts';

const MARK = Buffer.from([0x09]);
/** Times in a request whose samples all have values that no other field has: read back from its octets. */
function timesIn(body: Uint8Array): number[] {
  const bytes = Buffer.from(uncompress(body));
  const times: number[] = [];
  for (let at = bytes.indexOf(VALUE); at >= 0; at = bytes.indexOf(VALUE, at + 1)) {
    let time = 0;
    let shift = 1;
    let i = at + VALUE.length + 1;
    for (; bytes[i]! >= 0x80; i += 1, shift *= 128) time += (bytes[i]! & 0x7f) * shift;
    times.push(time + bytes[i]! * shift);
  }
  return times.sort((a, b) => a - b);
}
const VALUE = Buffer.concat([MARK, Buffer.from(new Float64Array([1234.5678]).buffer)]);
const series = seriesOf('m', {});
const samplesAt = (...times: readonly number[]): WriteSample[] =>
  times.map((timestampMs) => ({ series, timestampMs, value: 1234.5678 }));
const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

/** A receiver that refuses a request whole when `isBad` says so of any time in it. */
function receiver(isBad: (time: number) => boolean, reason = '400 out of order sample') {
  const taken: number[] = [];
  const sizes: number[] = [];
  const post: Post = (body) => {
    const times = timesIn(body);
    sizes.push(times.length);
    if (times.some(isBad)) return Promise.resolve({ kind: 'refused', reason });
    taken.push(...times);
    return Promise.resolve({ kind: 'taken' });
  };
  return { post, taken, sizes };
}
const ignore = (): undefined => undefined;

test('what is good goes in one request', async () => {
  const { post, taken, sizes } = receiver(() => false);
  const delivery = new Delivery(samplesAt(...upTo(10)));
  expect(await delivery.run(post, 0, ignore)).toEqual({ kind: 'taken' });
  expect([taken, sizes, delivery.isDone, delivery.taken]).toEqual([upTo(10), [10], true, 10]);
});

test('one bad sample among good ones is dropped alone', async () => {
  const { post, taken } = receiver((time) => time === 700, '400 invalid label');
  const delivery = new Delivery(samplesAt(...upTo(1_000)));
  await delivery.run(post, 0, ignore);
  expect(taken.sort((a, b) => a - b)).toEqual(upTo(1_000).filter((time) => time !== 700));
  expect([...delivery.dropped]).toEqual([['refused', 1]]);
  expect(delivery.refusal).toBe('400 invalid label');
});

test('what is too old is filtered before anything is sent', async () => {
  const { post, taken, sizes } = receiver(() => false);
  const delivery = new Delivery(samplesAt(...upTo(10)));
  await delivery.run(post, 4, ignore);
  expect([taken, sizes]).toEqual([[4, 5, 6, 7, 8, 9, 10], [7]]);
  expect([...delivery.dropped]).toEqual([['too_old', 3]]);
});

test("the edge of the receiver's window is found by halving, and nothing before it is tried one by one", async () => {
  const { post, taken, sizes } = receiver((time) => time <= 600, '500 too old sample');
  const delivery = new Delivery(samplesAt(...upTo(1_024)));
  await delivery.run(post, 0, ignore);
  expect(taken.sort((a, b) => a - b)).toEqual(upTo(1_024).filter((time) => time > 600));
  expect([...delivery.dropped]).toEqual([['too_old', 600]]);
  // At most two requests for each of the ten halvings, and the first.
  expect(sizes.length).toBeLessThanOrEqual(21);
});

test('a series that is refused as out of order is not asked for what is older', async () => {
  const { post, sizes } = receiver(() => true, '400 out of order sample');
  const delivery = new Delivery(samplesAt(...upTo(1_024)));
  await delivery.run(post, 0, ignore);
  // 1024, 512 … 1: eleven requests to the newest one, and then all older ones go.
  expect(sizes).toEqual([1_024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1]);
  expect([...delivery.dropped]).toEqual([['refused', 1_024]]);
});

test('a receiver that refuses everything for another reason is not asked for each sample', async () => {
  const { post, sizes } = receiver(() => true, '400 no');
  const delivery = new Delivery(samplesAt(...upTo(2_000)));
  await delivery.run(post, 0, ignore);
  expect(sizes).toHaveLength(256);
  const { dropped } = delivery;
  expect(dropped.get('refused')! + dropped.get('undecided')!).toBe(2_000);
});

test('goes on where it failed: nothing is lost and nothing that was taken is sent again', async () => {
  const { post, taken } = receiver((time) => time === 3, '400 no');
  const answers: PostOutcome['kind'][] = [];
  let requests = 0;
  const flaky: Post = (body) => {
    requests += 1;
    if (requests % 2 === 0) return Promise.resolve({ kind: 'failed', reason: '503 later', retryAfterMs: 7 });
    return post(body);
  };
  const delivery = new Delivery(samplesAt(...upTo(8)));
  let runs = 0;
  while (!delivery.isDone && runs < 50) {
    const outcome = await delivery.run(flaky, 0, ({ kind }) => answers.push(kind));
    if (outcome.kind === 'failed') expect(outcome.retryAfterMs).toBe(7);
    runs += 1;
  }
  expect(taken.sort((a, b) => a - b)).toEqual([1, 2, 4, 5, 6, 7, 8]);
  expect(delivery.taken).toBe(7);
  expect(answers.filter((kind) => kind === 'failed').length).toBe(runs - 1);
});

test('answers are told apart: about the samples, or to be tried again', () => {
  expect(outcomeOf(204, '', undefined)).toEqual({ kind: 'taken' });
  expect(outcomeOf(400, 'out of order sample\n', undefined)).toEqual({
    kind: 'refused',
    reason: '400 out of order sample',
  });
  // What Prometheus says of a sample before its out-of-order window.
  expect(outcomeOf(500, 'too old sample\n', undefined).kind).toBe('refused');
  expect(outcomeOf(500, 'write to WAL: no space left', undefined).kind).toBe('failed');
  expect(outcomeOf(413, '', undefined).kind).toBe('refused');
  for (const status of [301, 401, 403, 404, 408, 429, 502, 503]) {
    expect(outcomeOf(status, 'too old', 3_000)).toEqual({
      kind: 'failed',
      reason: `${status} too old`,
      retryAfterMs: 3_000,
    });
  }
});

test('Retry-After is seconds or a date', () => {
  const nowMs = Date.UTC(2026, 0, 5, 12);
  expect(parseRetryAfterMs('120', nowMs)).toBe(120_000);
  expect(parseRetryAfterMs('Mon, 05 Jan 2026 12:00:30 GMT', nowMs)).toBe(30_000);
  expect(parseRetryAfterMs('Mon, 05 Jan 2026 11:00:00 GMT', nowMs)).toBe(0);
  expect(parseRetryAfterMs('soon', nowMs)).toBeUndefined();
  expect(parseRetryAfterMs(null, nowMs)).toBeUndefined();
});
