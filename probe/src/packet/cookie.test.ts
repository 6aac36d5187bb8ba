import { expect, it } from 'vitest';
import { Cookie } from './cookie.ts';

/** Key and message of the reference implementation's vectors: octets 0, 1, 2, ... */
const KEY = Uint8Array.from({ length: 16 }, (_unused, i) => i);

it('is SipHash-2-4: the reference vector for 16 octets', () => {
  const cookie = new Cookie(KEY);
  cookie.compute(0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c);
  // vectors_sip64[16] = db 9b c2 57 7f cc 2a 3f
  expect([cookie.high.toString(16), cookie.low.toString(16)]).toEqual(['db9bc257', '7fcc2a3f']);
});

it('differs with the key and with each word', () => {
  const results = new Set<string>();
  for (const key of [KEY, KEY.map((octet) => octet ^ 1)]) {
    const cookie = new Cookie(key);
    for (const words of [
      [1, 2, 3, 4],
      [2, 2, 3, 4],
      [1, 3, 3, 4],
      [1, 2, 4, 4],
      [1, 2, 3, 5],
    ] as const) {
      cookie.compute(words[0], words[1], words[2], words[3]);
      results.add(`${cookie.high} ${cookie.low}`);
    }
  }
  expect(results.size).toBe(10);
});
