/**
 * The token by which a reflector over TCP or HTTP consents to be measured: one line each way. Text and bytes only.
 *
 *     wan-consent 1 SITE/PROBE NONCE        who asks, and 32 hexadecimal digits that were never asked with before
 *     wan-consent 1 MAC                     HMAC-SHA-256 over protocol, SITE/PROBE and NONCE, with the key that both agree on
 *
 * A service that repeats what it reads, or says the same to everybody, gives no consent.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { formatIdentity, parseIdentity, type Identity } from '@wanscope/shared';

/** Header field of HTTP; the rest of the line is its value. */
export const CONSENT_HEADER = 'wan-consent';
/** Longer lines are not read. */
export const MAX_CONSENT_LINE_BYTES = 256;

export type ConsentTransport = 'tcp' | 'http';

export interface ConsentRequest {
  readonly asker: Identity;
  /** 32 hexadecimal digits. */
  readonly nonce: string;
}

export function consentRequest({ asker, nonce }: ConsentRequest): string {
  return `1 ${formatIdentity(asker)} ${nonce}`;
}

/** Undefined for what is no request. */
export function readConsentRequest(text: string): ConsentRequest | undefined {
  const [, name, nonce] = /^1 ([a-z0-9_-]{1,63}\/[a-z0-9_-]{1,63}) ([0-9a-f]{32})$/.exec(text.trim()) ?? [];
  const asker = name === undefined ? undefined : parseIdentity(name);
  return asker === undefined || nonce === undefined ? undefined : { asker, nonce };
}

/** @param key that asker and reflector agree on; empty where probes have none. */
export function consentAnswer(transport: ConsentTransport, request: ConsentRequest, key: Uint8Array): string {
  const mac = createHmac('sha256', key)
    .update(`wanscope consent ${transport} ${consentRequest(request)}`)
    .digest('hex');
  return `1 ${mac}`;
}

export function isConsent(
  answer: string,
  transport: ConsentTransport,
  request: ConsentRequest,
  key: Uint8Array,
): boolean {
  const [given, expected] = [Buffer.from(answer.trim()), Buffer.from(consentAnswer(transport, request, key))];
  return given.length === expected.length && timingSafeEqual(given, expected);
}
