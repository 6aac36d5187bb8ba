/**
 * Seals: the Ed25519 signature (RFC 8032) of a message by who made it, over its octets, its subject and a salt. The subject
 * is in it, so that what one probe or one kind of message was signed for is good for no other; the salt tells a copy
 * from a message that says the same again.
 *
 * A binary report has room for it at its end; a text (JSON, a dictionary) gets a last line: `~` and base64url.
 */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  randomBytes,
  sign,
  verify,
  type KeyObject,
} from 'node:crypto';
import { WanscopeError } from './errors.ts';
import { isBinaryReport, withoutReportSeal, withReportSeal } from './report-frame.ts';

const SALT_BYTES = 8;
const SIGNATURE_BYTES = 64;
/** Octets of a seal in a binary report: salt, signature. */
export const SEAL_BYTES = SALT_BYTES + SIGNATURE_BYTES;

/** 72 octets are 96 characters of base64, without padding. */
const LINE = /^\n~[A-Za-z0-9_-]{96}$/;
const LINE_BYTES = 98;

const CONTEXT = 'wanscope message 1\n';
/** PKCS #8 of an Ed25519 key, up to its 32 octets (RFC 8410, section 7). */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');
const KEY = /^[A-Za-z0-9_-]{43}$/;

/** A key that is not one. */
export class InvalidKey extends WanscopeError {
  readonly code = 'INVALID_KEY';
}

/** Seals messages; made of a SECRET. */
export interface Signer {
  /** As it is pinned: 32 octets, base64url. */
  readonly publicKey: string;
  readonly sign: (octets: Uint8Array) => Uint8Array;
}

/** Checks what the owner of one public key sealed. */
export interface Verifier {
  readonly publicKey: string;
  readonly verify: (octets: Uint8Array, signature: Uint8Array) => boolean;
}

/** A new key. SECRET: 32 octets, base64url. */
export function newSecret(): string {
  const { privateKey } = generateKeyPairSync('ed25519');
  return privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(PKCS8_PREFIX.length).toString('base64url');
}

/** @throws InvalidKey, without the secret in its message. */
export function signerOf(secret: string): Signer {
  if (!KEY.test(secret)) throw new InvalidKey('a secret key is 43 characters of base64url');
  const key = createPrivateKey({
    key: Buffer.concat([PKCS8_PREFIX, Buffer.from(secret, 'base64url')]),
    format: 'der',
    type: 'pkcs8',
  });
  const { x } = createPublicKey(key).export({ format: 'jwk' });
  return { publicKey: x!, sign: (octets) => sign(null, octets, key) };
}

/** @throws InvalidKey */
export function verifierOf(publicKey: string): Verifier {
  if (!isPublicKey(publicKey)) throw new InvalidKey('a public key is 43 characters of base64url');
  let key: KeyObject;
  try {
    key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: publicKey }, format: 'jwk' });
  } catch (cause) {
    throw new InvalidKey('not an Ed25519 key', { cause });
  }
  return { publicKey, verify: (octets, signature) => verify(null, octets, key, signature) };
}

export function isPublicKey(text: string): boolean {
  return KEY.test(text);
}

/** The message with its seal. */
export function seal(subject: string, bytes: Uint8Array, signer: Signer, salt = randomBytes(SALT_BYTES)): Uint8Array {
  const sealOctets = Buffer.concat([salt, signer.sign(signedOctets(subject, salt, bytes))]);
  if (isBinaryReport(bytes)) return withReportSeal(bytes, sealOctets);
  return Buffer.concat([bytes, Buffer.from(`\n~${sealOctets.toString('base64url')}`)]);
}

/** A message that may have a seal, which nobody has checked yet. */
export interface Unsealed {
  /** The message as it was before it was sealed. */
  readonly body: Uint8Array;
  readonly seal: { readonly salt: string; readonly isBy: (subject: string, verifier: Verifier) => boolean } | undefined;
}

/** Takes the seal off. Never throws: a message that cannot be read has none. */
export function unseal(bytes: Uint8Array): Unsealed {
  const taken = isBinaryReport(bytes) ? withoutReportSeal(bytes, SEAL_BYTES) : withoutLine(bytes);
  if (taken === undefined) return { body: bytes, seal: undefined };
  const { body, octets } = taken;
  const salt = octets.subarray(0, SALT_BYTES);
  const signature = octets.subarray(SALT_BYTES);
  return {
    body,
    seal: {
      salt: Buffer.from(salt).toString('base64url'),
      isBy: (subject, verifier) => verifier.verify(signedOctets(subject, salt, body), signature),
    },
  };
}

/** A digest, so that a large message is not copied. Every part before the body is of one line or of fixed length. */
function signedOctets(subject: string, salt: Uint8Array, body: Uint8Array): Uint8Array {
  const digest = createHash('sha512').update(body).digest();
  return Buffer.concat([Buffer.from(`${CONTEXT}${subject}\n`), salt, digest]);
}

function withoutLine(bytes: Uint8Array): { readonly body: Uint8Array; readonly octets: Uint8Array } | undefined {
  const at = bytes.length - LINE_BYTES;
  if (at < 0 || bytes[at] !== 0x0a) return undefined;
  const line = Buffer.from(bytes.buffer, bytes.byteOffset + at, LINE_BYTES).toString('latin1');
  if (!LINE.test(line)) return undefined;
  return { body: bytes.subarray(0, at), octets: Buffer.from(line.slice(2), 'base64url') };
}
