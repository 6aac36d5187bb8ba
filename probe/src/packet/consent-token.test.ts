import { createHmac } from 'node:crypto';
import { expect, test } from 'vitest';
import { consentAnswer, consentRequest, isConsent, readConsentRequest } from './consent-token.ts';

const KEY = Buffer.alloc(32, 7);
const REQUEST = { asker: { site: 'hq', probe: 'edge' }, nonce: '0123456789abcdef'.repeat(2) };

test('a request says who asks, and a number', () => {
  const text = consentRequest(REQUEST);
  expect(text).toBe('1 hq/edge 0123456789abcdef0123456789abcdef');
  expect(readConsentRequest(`${text}\r`)).toEqual(REQUEST);
});

test('the answer is the code over transport, asker and number', () => {
  const mac = createHmac('sha256', KEY)
    .update('wanscope consent tcp 1 hq/edge 0123456789abcdef0123456789abcdef')
    .digest('hex');
  expect(consentAnswer('tcp', REQUEST, KEY)).toBe(`1 ${mac}`);
  expect(isConsent(`1 ${mac}\r\n`, 'tcp', REQUEST, KEY)).toBe(true);
});

test.each([
  ['of the other transport', consentAnswer('http', REQUEST, KEY)],
  ['to another number', consentAnswer('tcp', { ...REQUEST, nonce: 'f'.repeat(32) }, KEY)],
  ['to another asker', consentAnswer('tcp', { ...REQUEST, asker: { site: 'hq', probe: 'other' } }, KEY)],
  ['with another key', consentAnswer('tcp', REQUEST, Buffer.alloc(32, 8))],
  ['that repeats the request', consentRequest(REQUEST)],
  ['that is empty', ''],
  ['that is long', `1 ${'a'.repeat(10_000)}`],
])('an answer %s is none', (_what, answer) => {
  expect(isConsent(answer, 'tcp', REQUEST, KEY)).toBe(false);
});

test.each([
  '',
  '1 hq/edge',
  '2 hq/edge 0123456789abcdef0123456789abcdef',
  '1 HQ/edge 0123456789abcdef0123456789abcdef',
  '1 hq/edge 0123',
  '1 a/b/c 0123456789abcdef0123456789abcdef',
])('"%s" is no request', (text) => {
  expect(readConsentRequest(text)).toBeUndefined();
});
