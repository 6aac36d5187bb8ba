/**
 * How a probe that was given a claim comes to its keys: it makes them here, keeps them, shows the claim and keeps what it is
 * answered. From then on it is a probe like others, also where the claim is still in its configuration: that is good for nothing
 * any more. A power cut at any point costs a repetition: the keys are on disk before anybody hears of them.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  claimProofOf,
  decodeClaimAnswer,
  decodeEnrolment,
  encodeClaimRequest,
  encodeEnrolment,
  formatIdentity,
  InvalidConfiguration,
  newSecret,
  RejectedMessage,
  signerOf,
  verifierOf,
  type Claim,
  type ClaimGranted,
  type ClaimRefusal,
  type ClaimRequest,
  type Clock,
  type Enrolment,
  type Identity,
  type SendMark,
} from '@wanscope/shared';
import { BusError, newUserKeys, publicKeyOf, signedBy, type Bus, type ClaimDesk, type OnMessage } from './bus.ts';
import { isInMemory, writeKept } from './kept-file.ts';
import type { Log } from './log.ts';
import { setAside } from './set-aside.ts';

const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 30_000;
/** A claim that was refused will be again, unless somebody does something. */
const REFUSED_RETRY_MS = 300_000;

/** Keys that were made for a claim. SECRET */
interface Pending {
  /** Public half of the claim's secret. */
  readonly claim: string;
  readonly seed: string;
  readonly secret: string;
}

/** What the state directory has of it. SECRET */
interface Kept {
  readonly v: 1;
  readonly pending?: Pending;
  /** What was granted, to which claim. */
  readonly granted?: { readonly claim: string; readonly line: string };
}

/** Enrolments that were claimed, in the state directory. */
export class EnrolmentStore {
  readonly #directory: string;
  readonly #file: string;
  readonly #log: Log;
  readonly #wallMs: () => number;
  /** Why the file that is there could not be read: it is set aside before it is written over. */
  #unreadable: string | undefined;

  constructor(directory: string, { site, probe }: Identity, log: Log, wallMs: () => number) {
    this.#wallMs = wallMs;
    this.#directory = directory;
    this.#file = join(directory, `enrolment-${site}-${probe}.json`);
    this.#log = log;
  }

  /** What was granted to this claim. */
  grantedTo(claim: Claim): ReturnType<EnrolmentStore['granted']> {
    const granted = this.granted();
    return granted?.claim === signerOf(claim.secret).publicKey ? granted : undefined;
  }

  /** What was granted before; undefined when nothing was, or it cannot be read. */
  granted(): { readonly claim: string; readonly enrolment: Enrolment } | undefined {
    const { granted } = this.#read();
    if (granted === undefined) return undefined;
    try {
      return { claim: granted.claim, enrolment: decodeEnrolment(granted.line) };
    } catch (error) {
      if (!(error instanceof InvalidConfiguration)) throw error;
      this.#unreadable = 'the enrolment in it is damaged, or of another version';
      this.#log.error({ file: this.#file }, 'the enrolment in the state directory is damaged');
      return undefined;
    }
  }

  /**
   * The keys for this claim: those that were made for it before, or new ones, which are on disk when this returns.
   *
   * @throws the system's error when they cannot be kept.
   */
  keysFor(claim: string): Pending {
    const kept = this.#read();
    if (kept.pending?.claim === claim) return kept.pending;
    const pending = { claim, seed: newUserKeys().seed, secret: newSecret() };
    this.#write({ ...kept, pending });
    return pending;
  }

  /** The keys have become an enrolment. */
  keep(claim: string, enrolment: Enrolment): void {
    this.#write({ v: 1, granted: { claim, line: encodeEnrolment(enrolment) } });
  }

  /** Whether a power cut takes what is kept here with it. */
  get isInMemory(): boolean {
    return isInMemory(this.#directory);
  }

  #read(): Kept {
    try {
      const value: unknown = JSON.parse(readFileSync(this.#file, 'utf8'));
      if (isKept(value)) return value;
      this.#unreadable = 'it is damaged, or of another version';
      this.#log.error({ file: this.#file }, 'the enrolment in the state directory is damaged');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        this.#unreadable = String(error);
        this.#log.error({ file: this.#file, error: String(error) }, 'the enrolment cannot be read');
      }
    }
    return { v: 1 };
  }

  #write(kept: Kept): void {
    mkdirSync(this.#directory, { recursive: true });
    if (this.#unreadable !== undefined && !setAside(this.#file, this.#wallMs(), this.#log, this.#unreadable)) {
      throw new Error(`${this.#file} can neither be read nor set aside`);
    }
    this.#unreadable = undefined;
    writeKept(this.#file, JSON.stringify(kept));
  }
}

function isKept(value: unknown): value is Kept {
  if (typeof value !== 'object' || value === null || !('v' in value) || value.v !== 1) return false;
  const { pending, granted } = value as Record<string, unknown>;
  const hasTexts = (part: unknown, ...names: readonly string[]): boolean =>
    part === undefined ||
    (typeof part === 'object' &&
      part !== null &&
      names.every((name) => typeof (part as Record<string, unknown>)[name] === 'string'));
  return hasTexts(pending, 'claim', 'seed', 'secret') && hasTexts(granted, 'claim', 'line');
}

/** `none`: it was given no claim. */
export type EnrolmentState = 'none' | 'claiming' | 'refused' | 'enrolled';
export const ENROLMENT_STATES = ['none', 'claiming', 'refused', 'enrolled'] as const satisfies EnrolmentState[];

export interface ClaimingOptions {
  readonly claim: Claim;
  readonly store: EnrolmentStore;
  readonly open: () => Promise<ClaimDesk>;
  readonly clock: Clock;
  readonly log: Log;
  /** Between 0 and 1: retries of a whole fleet are spread by it. */
  readonly random?: () => number;
}

/** Makes one claim until it is granted. */
export class Claiming {
  readonly #options: ClaimingOptions;
  #state: EnrolmentState = 'claiming';
  #refusal: ClaimRefusal | undefined;
  #told = '';
  #cancel: (() => void) | undefined;
  #isClosed = false;

  constructor(options: ClaimingOptions) {
    this.#options = options;
  }

  get state(): EnrolmentState {
    return this.#state;
  }

  /** Why the claim was refused last. */
  get refusal(): ClaimRefusal | undefined {
    return this.#refusal;
  }

  close(): void {
    this.#isClosed = true;
    this.#cancel?.();
  }

  /**
   * What this device is to use: what was granted to this claim, now or before. Where the claim is refused and there is an
   * enrolment of an earlier one, that. Undefined when it was closed before.
   */
  async enrolment(): Promise<Enrolment | undefined> {
    const { claim, store, log } = this.#options;
    const key = signerOf(claim.secret).publicKey;
    const before = store.granted();
    if (before?.claim === key) return this.#enrolled(before.enrolment);
    const name = formatIdentity(claim);
    if (store.isInMemory) {
      log.warn(
        {},
        `WAN_STATE_DIR is in memory: after a power cut the keys of ${name} are gone, and it needs another claim`,
      );
    }
    let delayMs = FIRST_RETRY_MS;
    while (!this.#isClosed) {
      try {
        const answer = await this.#claim(key);
        if (answer !== undefined) return this.#enrolled(answer);
        if (before !== undefined) {
          log.warn({ cause: this.#refusal }, 'the claim was refused; going on by the enrolment of an earlier one');
          return this.#enrolled(before.enrolment);
        }
        delayMs = REFUSED_RETRY_MS;
      } catch (error) {
        this.#say(adviceOf(error));
        delayMs = Math.min(LAST_RETRY_MS, delayMs * 2);
      }
      await this.#sleep(delayMs * (0.5 + (this.#options.random ?? Math.random)()));
    }
    return undefined;
  }

  /** Undefined when it is refused. */
  async #claim(claimKey: string): Promise<Enrolment | undefined> {
    const { claim, store, open, log } = this.#options;
    const { site, probe } = claim;
    const { seed, secret } = store.keysFor(claimKey);
    const device = signerOf(secret);
    const user = publicKeyOf(seed);
    const named: ClaimRequest = { v: 1, site, probe, claim: claimKey, user, key: device.publicKey, step: 'claim' };
    const asked = { ...named, userProof: signedBy(seed, claimProofOf(named)) };
    const desk = await open();
    try {
      const bytes = await desk.request(encodeClaimRequest(asked, device, claim.secret));
      const answer = decodeClaimAnswer(bytes, asked, verifierOf(claim.issuer));
      if (answer.status === 'refused') {
        this.#state = 'refused';
        this.#refusal = answer.cause;
        this.#say(REFUSAL_ADVICE[answer.cause]);
        return undefined;
      }
      const enrolment = enrolmentOf(claim, answer, { seed, secret });
      store.keep(claimKey, enrolment);
      log.info({ key: device.publicKey }, 'enrolled: the claim is good for nothing any more');
      // Its user is shut out then. If this is lost, that ends with the claim.
      await desk.tell(encodeClaimRequest({ ...asked, step: 'stored' }, device, claim.secret)).catch(() => undefined);
      return enrolment;
    } finally {
      await desk.close();
    }
  }

  #enrolled(enrolment: Enrolment): Enrolment {
    this.#state = 'enrolled';
    return enrolment;
  }

  #say(what: string): void {
    if (what !== this.#told) this.#options.log.warn({}, `not enrolled yet: ${what}`);
    this.#told = what;
  }

  async #sleep(delayMs: number): Promise<void> {
    if (this.#isClosed) return;
    await new Promise<void>((resolve) => {
      const cancel = this.#options.clock.after(delayMs, resolve);
      this.#cancel = () => {
        cancel();
        resolve();
      };
    });
  }
}

const REFUSAL_ADVICE: Readonly<Record<ClaimRefusal, string>> = {
  malformed: 'the claim is not understood: is this probe newer than wan-admin?',
  unknown: 'nobody knows this claim: it is of another fleet or long over',
  wrong_identity: 'the claim is for another probe',
  bad_signature: 'the claim is damaged',
  expired: 'the claim has expired: hand out another one (wan-admin enroll)',
  used: 'somebody else has used this claim: find out who, and hand out another one (wan-admin enroll)',
  revoked: 'the claim was revoked: hand out another one (wan-admin enroll)',
};

function adviceOf(error: unknown): string {
  if (error instanceof BusError) return `${error.message}; trying for ever`;
  if (error instanceof RejectedMessage) return `the answer cannot be believed: ${error.message}`;
  if (error instanceof Error && 'syscall' in error) {
    return `WAN_STATE_DIR cannot be written (${error.message}). The claim is not made: with the next start its keys would be gone, and it would be used`;
  }
  return String(error);
}

function enrolmentOf(claim: Claim, answer: ClaimGranted, keys: Pick<Enrolment, 'seed' | 'secret'>): Enrolment {
  const { site, probe, servers } = claim;
  const { jwt, collectorKeys, ca } = answer;
  return {
    v: 1,
    ...{ site, probe, jwt, collectorKeys },
    ...keys,
    ...(ca !== undefined && { ca }),
    ...(servers !== undefined && { servers }),
  };
}

/** A bus that begins when it is known who this probe is; until then it is not connected. */
export class LateBus implements Bus {
  readonly #subscriptions: { readonly subject: string; readonly onMessage: OnMessage }[] = [];
  readonly #listeners: ((connected: boolean) => void)[] = [];
  #bus: Bus | undefined;
  #isClosed = false;

  begin(bus: Bus): void {
    if (this.#isClosed) {
      void bus.close();
      return;
    }
    this.#bus = bus;
    for (const { subject, onMessage } of this.#subscriptions) bus.subscribe(subject, onMessage);
    for (const listener of this.#listeners) bus.onStatus(listener);
    if (bus.connected) for (const listener of this.#listeners) listener(true);
  }

  get connected(): boolean {
    return this.#bus?.connected ?? false;
  }

  publish(subject: string, bytes: Uint8Array, mark?: SendMark): Promise<void> {
    return this.#bus?.publish(subject, bytes, mark) ?? Promise.reject(new BusError('not enrolled yet'));
  }

  subscribe(subject: string, onMessage: OnMessage): void {
    if (this.#bus === undefined) this.#subscriptions.push({ subject, onMessage });
    else this.#bus.subscribe(subject, onMessage);
  }

  onStatus(listener: (connected: boolean) => void): void {
    if (this.#bus === undefined) this.#listeners.push(listener);
    else this.#bus.onStatus(listener);
  }

  async verify(): Promise<void> {
    await this.#bus?.verify?.();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#bus?.close();
  }
}
