/**
 * Keys for STAMP's authenticated mode that each two probes agree on without a word between them: each has a key pair
 * (X25519, RFC 7748) made of its enrolment, tells the public half in its hello and is told those of others with its plan. What
 * both come to is a key of its own for each direction (HKDF, RFC 5869).
 *
 * A reflector is not told who asks. The remainder of a request's SSID narrows it down to a few: `ssidClassOf`.
 */
import { createPrivateKey, createPublicKey, diffieHellman, hkdfSync, type KeyObject } from 'node:crypto';
import { formatIdentity, type Askers, type Identity, type PlannedSession } from '@wanscope/shared';
import { classOfSsid, ssidClassOf } from './packet/ssid.ts';

const KEY_BYTES = 32;
/** PKCS #8 of an X25519 key, up to its 32 octets (RFC 8410, section 7). */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b656e04220420', 'hex');

/** A probe whose authenticated requests are expected. */
export interface Asker {
  /** `site/probe`. */
  readonly name: string;
  /** SECRET; undefined when its public key is not one. */
  readonly key: Uint8Array | undefined;
}

/**
 * The key that a probe's consent is authenticated with. `none`: this probe has no key pair, nor has the fleet then. `impossible`: it has one,
 * and nothing can be agreed with the other end. Any reflector would answer without a key, and consent to nothing by it.
 */
export type ConsentKey = 'none' | 'impossible' | { readonly key: Uint8Array; readonly ssidClass: number };

export class PeerKeys {
  readonly #self: Identity;
  #own: { readonly secret: KeyObject; readonly publicKey: string } | undefined;
  #askers = new Map<number, LazyAsker[]>();
  #only = false;

  constructor(self: Identity) {
    this.#self = self;
  }

  /** From now on there is a key pair. @param secret 32 octets, base64url: what the probe was enrolled with. */
  use(secret: string): void {
    const octets = hkdfSync('sha256', Buffer.from(secret, 'base64url'), '', 'wanscope stamp agreement 1', KEY_BYTES);
    const key = createPrivateKey({
      key: Buffer.concat([PKCS8_PREFIX, Buffer.from(octets)]),
      format: 'der',
      type: 'pkcs8',
    });
    this.#own = { secret: key, publicKey: createPublicKey(key).export({ format: 'jwk' }).x! };
  }

  /** As hello tells it; undefined before `use`. */
  get publicKey(): string | undefined {
    return this.#own?.publicKey;
  }

  /** Requests that are not authenticated stay unanswered. */
  get only(): boolean {
    return this.#only;
  }

  /** Whose requests are expected; undefined: nobody's. */
  expect(askers: Askers | undefined): void {
    this.#only = askers?.only ?? false;
    this.#askers = new Map();
    if (this.#own === undefined) return;
    for (const { site, probe, agreementKey } of askers?.peers ?? []) {
      const peer = { site, probe };
      const asker = new LazyAsker(formatIdentity(peer), () => this.#agree(peer, this.#self, agreementKey));
      const ssidClass = ssidClassOf(peer, this.#self);
      const others = this.#askers.get(ssidClass);
      if (others === undefined) this.#askers.set(ssidClass, [asker]);
      else others.push(asker);
    }
  }

  /** Who may have sent a request with this SSID. Their keys are made when they are looked at first. */
  askersOf(ssid: number): readonly Asker[] {
    return this.#askers.get(classOfSsid(ssid) ?? 0) ?? NOBODY;
  }

  /** The key of an asker by its name `site/probe`; undefined for one that is not expected. */
  keyOf(name: string): Uint8Array | undefined {
    for (const askers of this.#askers.values()) {
      const asker = askers.find((one) => one.name === name);
      if (asker !== undefined) return asker.key;
    }
    return undefined;
  }

  /** What asks the reflector of a session for its consent. */
  consentKeyFor({ path, target }: PlannedSession): ConsentKey {
    if (this.#own === undefined) return 'none';
    const reflector = { site: path.dstSite, probe: path.dst };
    const publicKey = target.ask?.agreementKey;
    const key = publicKey === undefined ? undefined : this.#agree(this.#self, reflector, publicKey);
    return key === undefined ? 'impossible' : { key, ssidClass: ssidClassOf(this.#self, reflector) };
  }

  /** The session with the key that is agreed with its target, where one is. */
  withKey(planned: PlannedSession): PlannedSession {
    const { agreementKey, ...target } = planned.target;
    if (agreementKey === undefined) return planned;
    const reflector = { site: planned.path.dstSite, probe: planned.path.dst };
    const key = this.#agree(this.#self, reflector, agreementKey);
    if (key === undefined) return { ...planned, target };
    const stampKey = Buffer.from(key).toString('hex');
    return { ...planned, target: { ...target, stampKey, ssidClass: ssidClassOf(this.#self, reflector) } };
  }

  /** Undefined where there is no key pair here, or none there. */
  #agree(sender: Identity, reflector: Identity, publicKey: string): Uint8Array | undefined {
    const own = this.#own;
    if (own === undefined) return undefined;
    const isSender = formatIdentity(sender) === formatIdentity(this.#self);
    const publicKeys = isSender ? [own.publicKey, publicKey] : [publicKey, own.publicKey];
    const salt = Buffer.from(publicKeys.join(''), 'base64url');
    const info = `wanscope stamp 1\n${formatIdentity(sender)}\n${formatIdentity(reflector)}`;
    try {
      const theirs = createPublicKey({ key: { kty: 'OKP', crv: 'X25519', x: publicKey }, format: 'jwk' });
      const shared = diffieHellman({ privateKey: own.secret, publicKey: theirs });
      return new Uint8Array(hkdfSync('sha256', shared, salt, info, KEY_BYTES));
    } catch {
      // A point of small order: nothing can be agreed with it.
      return undefined;
    }
  }
}

const NOBODY: readonly Asker[] = [];

/** An agreement takes a tenth of a millisecond, and a hub has a thousand. */
class LazyAsker implements Asker {
  readonly name: string;
  readonly #agree: () => Uint8Array | undefined;
  #agreed: { readonly key: Uint8Array | undefined } | undefined;

  constructor(name: string, agree: () => Uint8Array | undefined) {
    this.name = name;
    this.#agree = agree;
  }

  get key(): Uint8Array | undefined {
    this.#agreed ??= { key: this.#agree() };
    return this.#agreed.key;
  }
}
