/**
 * The fleet as its hellos and reports tell it: who is there, where it can be reached, and whether it is live, silent
 * or has left. Three different things: a silent probe may come back and its peers still measure towards it; one that
 * left is forgotten. A probe that is expected never leaves by being silent: a dead branch stays a problem.
 */
import {
  formatIdentity,
  NS_PER_MS,
  RejectedMessage,
  type Clock,
  type FullHello,
  type Hello,
  type Identity,
} from '@wanscope/shared';

export type Presence = 'live' | 'silent' | 'left';

export const SILENT_AFTER_INTERVALS = 3;
export const LEAVE_AFTER_GOODBYE_MS = 120_000;
/** What left is listed for this long, so that a person can see that it did. */
const FORGET_AFTER_MS = 3_600_000;
const MAX_PROBES = 100_000;
const MAX_BOOTS = 8;
/** A probe may change what plans are made of so often at once, and then once in so long: each change is a new plan for all its peers. */
const CHANGES_AT_ONCE = 4;
const CHANGE_EVERY_MS = 15_000;
/** Each name of a network and an uplink that a probe makes up is a set of series: it may bring two full hellos at once, and then one in so long. */
const NAMES_AT_ONCE = 128;
const NAME_EVERY_MS = 300_000;
/** Names of its endpoints that are known to be its own, and cost nothing when they come back. */
const MAX_NAMES = 128;
/** What it says that it runs is a label, too. */
const SOFTWARE_EVERY_MS = 300_000;
const SOFTWARE = /^[A-Za-z0-9][A-Za-z0-9._+/-]*$/;

export interface RegistrySettings {
  readonly intervalMs: number;
  readonly leaveAfterMs: number;
  /** True for sites that may be planned. */
  readonly isConfigured: (site: string) => boolean;
  /** False for a probe whose enrolment was revoked, has expired, or is needed and missing. Absent: every probe is in. */
  readonly isAdmitted?: ((identity: Identity) => boolean) | undefined;
  /** True for a probe that is not admitted only because its enrolment has expired: it is not planned, and stays known. */
  readonly hasExpired?: ((identity: Identity) => boolean) | undefined;
  /** False for a probe that leaves when it is silent for `leaveAfterMs`. Absent: every probe is expected back. */
  readonly isExpected?: ((identity: Identity) => boolean) | undefined;
  /** How long ago an operator retired the probe; undefined where none did. */
  readonly retiredAgoMs?: ((identity: Identity) => number | undefined) | undefined;
  /** What another collector says of a probe that is its own; undefined where this one has to tell by itself. */
  readonly presenceElsewhere?: ((identity: Identity) => Presence | undefined) | undefined;
}

export interface ProbeEntry {
  readonly identity: Identity;
  readonly presence: Presence;
  /** Undefined until a full hello was read. */
  readonly hello: FullHello | undefined;
  /** What it says that it runs, as it is shown: one change in five minutes, and `invalid` for what is no name or version. */
  readonly software: string | undefined;
  /** What it announces now is not planned yet: it changed too often. */
  readonly isDamped: boolean;
  readonly saidGoodbye: boolean;
  readonly duplicateIdentity: boolean;
  /** Its site is in the configuration. */
  readonly configured: boolean;
  /** Its enrolment is good, or not needed. */
  readonly admitted: boolean;
  /** Silent for longer than `leaveAfterMs`, and expected back. */
  readonly isAway: boolean;
  /** Since the last hello or report that was not older than that. */
  readonly heardAgoMs: number;
}

export interface Transition {
  readonly identity: Identity;
  readonly from: Presence;
  readonly to: Presence;
}

interface Entry {
  readonly identity: Identity;
  hello: FullHello | undefined;
  /** What plans are made of: the newest hello, unless it is damped; undefined: nothing to plan. */
  planned: FullHello | undefined;
  /** Changes that it may still make, and when that was so. */
  changes: number;
  changesAtMs: number;
  /** The same of names of endpoints that it did not have before. */
  namesLeft: number;
  namesAtMs: number;
  readonly names: Set<string>;
  software: { readonly text: string; readonly sinceMs: number } | undefined;
  presence: Presence;
  /** Monotonic ms of the last report or hello, and the same without the time the bus was away. */
  heardMonoMs: number;
  heardSightedMs: number;
  goodbyeMonoMs: number | undefined;
  leftMonoMs: number | undefined;
  /** A site that was never configured is listed as it is; one that was taken out has left. */
  wasConfigured: boolean;
  /** Where in the stream the hello is, where that is known. */
  helloStreamSeq: number | undefined;
  /** Boots that a newer one replaced, with the last version of their hello. */
  readonly olderBoots: Map<string, number>;
  duplicateMonoMs: number | undefined;
}

export class Registry {
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry>();
  /** By identity; undefined when one came or was forgotten. */
  #sorted: readonly Entry[] | undefined;
  #settings: RegistrySettings;
  #blindSinceMonoMs: number | undefined;
  #blindTotalMs = 0;
  #revision = 0;
  #damped = 0;

  constructor(clock: Clock, settings: RegistrySettings) {
    this.#clock = clock;
    this.#settings = settings;
  }

  /** Grows whenever something changed that a plan may depend on. */
  get revision(): number {
    return this.#revision;
  }

  /** Changes of what probes announce that had to wait. */
  get dampedChanges(): number {
    return this.#damped;
  }

  configure(settings: RegistrySettings): void {
    this.#settings = settings;
    this.#revision += 1;
  }

  /** While the bus is away nobody can be heard, and nobody leaves for being silent. */
  setBlind(blind: boolean): void {
    if (blind) {
      this.#blindSinceMonoMs ??= this.#monoMs();
    } else if (this.#blindSinceMonoMs !== undefined) {
      this.#blindTotalMs += this.#monoMs() - this.#blindSinceMonoMs;
      this.#blindSinceMonoMs = undefined;
    }
  }

  /**
   * Takes a hello that was stored `ageMs` ago.
   *
   * @throws RejectedMessage `duplicate_identity` for an older boot while a newer one is live, `stale_version` for a
   * hello older than the one known, `replayed` for the one known when somebody published it again.
   */
  hello(identity: Identity, hello: Hello, ageMs: number, streamSeq?: number): void {
    const entry = this.#entryOf(identity);
    if (hello.kind === 'goodbye') {
      if (entry.hello !== undefined && entry.hello.bootId !== hello.bootId) {
        throw new RejectedMessage('stale_version', `goodbye of another boot of ${formatIdentity(identity)}`);
      }
      entry.goodbyeMonoMs ??= this.#monoMs() - ageMs;
      this.#plan(entry);
      return;
    }
    const known = entry.hello;
    if (known?.bootId === hello.bootId && hello.version < known.version) {
      throw new RejectedMessage('stale_version', `hello ${hello.version} of ${formatIdentity(identity)}`);
    }
    if (known?.bootId === hello.bootId && hello.version === known.version && streamSeq !== entry.helloStreamSeq) {
      throw new RejectedMessage('replayed', `hello ${hello.version} of ${formatIdentity(identity)} came before`);
    }
    if (known !== undefined && known.bootId !== hello.bootId) {
      // A router without a battery-backed clock may start "before" its last boot: it may take over a dead one.
      const knownIsLive = entry.presence === 'live' && entry.goodbyeMonoMs === undefined;
      if (knownIsLive && isOlder(hello, known)) {
        this.#rememberBoot(entry, hello.bootId, hello.version);
        entry.duplicateMonoMs = this.#monoMs();
        throw new RejectedMessage('duplicate_identity', `an older boot of ${formatIdentity(identity)} is live`);
      }
      // A boot may come back when the one that replaced it has gone, but not with what it said before.
      const said = entry.olderBoots.get(hello.bootId);
      if (said !== undefined && hello.version <= said) {
        throw new RejectedMessage('replayed', `hello ${hello.version} of an older boot of ${formatIdentity(identity)}`);
      }
      this.#rememberBoot(entry, known.bootId, known.version);
      entry.olderBoots.delete(hello.bootId);
    }
    entry.hello = hello;
    entry.helloStreamSeq = streamSeq;
    entry.goodbyeMonoMs = undefined;
    this.#hear(entry, ageMs);
    this.#plan(entry);
    this.#showSoftware(entry);
  }

  #showSoftware(entry: Entry): void {
    const { hello, software } = entry;
    const nowMs = this.#monoMs();
    if (hello === undefined || (software !== undefined && nowMs - software.sinceMs < SOFTWARE_EVERY_MS)) return;
    const text = SOFTWARE.test(hello.software) ? hello.software : 'invalid';
    if (text !== software?.text) entry.software = { text, sinceMs: nowMs };
  }

  /** Takes note of the names of its endpoints; false where it brings more new ones than it may. */
  #takeNames(entry: Entry, hello: FullHello | undefined): boolean {
    const names = new Set(hello?.endpoints.map(({ network, uplink }) => `${network}|${uplink}`));
    const added = [...names].filter((name) => !entry.names.has(name)).length;
    const nowMs = this.#monoMs();
    entry.namesLeft = Math.min(NAMES_AT_ONCE, entry.namesLeft + (nowMs - entry.namesAtMs) / NAME_EVERY_MS);
    entry.namesAtMs = nowMs;
    if (added > entry.namesLeft) return false;
    entry.namesLeft -= added;
    for (const name of names) {
      entry.names.delete(name);
      entry.names.add(name);
    }
    for (const oldest of entry.names) {
      if (entry.names.size <= MAX_NAMES) break;
      entry.names.delete(oldest);
    }
    return true;
  }

  /** Takes over into plans what a probe said last, unless it has changed too often: then with a later tick. */
  #plan(entry: Entry): void {
    const wanted = entry.goodbyeMonoMs === undefined ? entry.hello : undefined;
    const isSame =
      wanted === undefined || entry.planned === undefined
        ? wanted === entry.planned
        : planInputs(wanted) === planInputs(entry.planned);
    if (isSame) {
      entry.planned = wanted;
      return;
    }
    const nowMs = this.#monoMs();
    entry.changes = Math.min(CHANGES_AT_ONCE, entry.changes + (nowMs - entry.changesAtMs) / CHANGE_EVERY_MS);
    entry.changesAtMs = nowMs;
    if (entry.changes < 1 || !this.#takeNames(entry, wanted)) {
      this.#damped += 1;
      return;
    }
    entry.changes -= 1;
    entry.planned = wanted;
    this.#revision += 1;
  }

  /**
   * A report arrived that was stored `ageMs` ago.
   *
   * @param sightedAgeMs the same without the time in which nothing could be heard: the bus was away, or the collector was down.
   */
  heard(identity: Identity, ageMs: number, sightedAgeMs = ageMs): void {
    this.#hear(this.#entryOf(identity), ageMs, sightedAgeMs);
  }

  /**
   * True when a report of `bootId`, whose interval began at `intervalStartMs`, comes from a boot that should be gone:
   * a newer one had already started by then.
   */
  isReplacedBoot(identity: Identity, bootId: string, intervalStartMs: number): boolean {
    const entry = this.#entries.get(formatIdentity(identity));
    if (entry?.hello === undefined || entry.hello.bootId === bootId || !entry.olderBoots.has(bootId)) return false;
    const replaced = intervalStartMs > entry.hello.startedAtMs + this.#settings.intervalMs;
    if (replaced) entry.duplicateMonoMs = this.#monoMs();
    return replaced;
  }

  /** True when no full hello of this boot was ever read. */
  isUnknownBoot(identity: Identity, bootId: string): boolean {
    const entry = this.#entries.get(formatIdentity(identity));
    return entry?.hello === undefined || (entry.hello.bootId !== bootId && !entry.olderBoots.has(bootId));
  }

  /** False as soon as it is heard of again. */
  hasLeft(identity: Identity): boolean {
    const entry = this.#entries.get(formatIdentity(identity));
    return entry?.presence === 'left' && this.#presenceOf(entry, this.#monoMs()) === 'left';
  }

  isSilent(identity: Identity): boolean {
    return this.#entries.get(formatIdentity(identity))?.presence === 'silent';
  }

  isConfigured(site: string): boolean {
    return this.#settings.isConfigured(site);
  }

  /** Brings every presence up to now and tells what changed. */
  tick(): Transition[] {
    const transitions: Transition[] = [];
    const nowMs = this.#monoMs();
    for (const [key, entry] of this.#entries) {
      if (this.#isDamped(entry) && nowMs - entry.changesAtMs >= CHANGE_EVERY_MS) this.#plan(entry);
      this.#showSoftware(entry);
      const presence = this.#presenceOf(entry, nowMs);
      if (presence !== entry.presence) {
        transitions.push({ identity: entry.identity, from: entry.presence, to: presence });
        // Who is silent keeps its plan, and its place in those of others.
        if (presence === 'left' || entry.presence === 'left') this.#revision += 1;
        entry.presence = presence;
        entry.leftMonoMs = presence === 'left' ? nowMs : undefined;
      }
      if (entry.leftMonoMs !== undefined && nowMs - entry.leftMonoMs > FORGET_AFTER_MS) {
        this.#entries.delete(key);
        this.#sorted = undefined;
      }
    }
    return transitions;
  }

  /** Every probe known, by identity. */
  probes(): ProbeEntry[] {
    const nowMs = this.#monoMs();
    return this.#all().map((entry) => this.#shown(entry, nowMs));
  }

  #all(): readonly Entry[] {
    this.#sorted ??= [...this.#entries].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, entry]) => entry);
    return this.#sorted;
  }

  probe(identity: Identity): ProbeEntry | undefined {
    const entry = this.#entries.get(formatIdentity(identity));
    return entry && this.#shown(entry, this.#monoMs());
  }

  /** The last full hello; undefined when none was read. */
  helloOf(identity: Identity): FullHello | undefined {
    return this.#entries.get(formatIdentity(identity))?.hello;
  }

  /** The probes to plan for, as they announced themselves: configured, admitted, present (silent ones too), no goodbye said. */
  plannable(): FullHello[] {
    return this.#all().flatMap(({ identity, presence, planned }) =>
      planned !== undefined && presence !== 'left' && this.#mayMeasure(identity) ? [planned] : [],
    );
  }

  /** Probes that are heard of and may not measure: their site is not in the configuration (any more), or they are not admitted. */
  dismissed(): Identity[] {
    return this.#all().flatMap(({ identity }) => (this.#mayMeasure(identity) ? [] : [identity]));
  }

  #mayMeasure(identity: Identity): boolean {
    const { isConfigured, isAdmitted } = this.#settings;
    return isConfigured(identity.site) && isAdmitted?.(identity) !== false;
  }

  #isDamped(entry: Entry): boolean {
    const wanted = entry.goodbyeMonoMs === undefined ? entry.hello : undefined;
    if (wanted === entry.planned) return false;
    return wanted === undefined || entry.planned === undefined || planInputs(wanted) !== planInputs(entry.planned);
  }

  #shown(entry: Entry, nowMs: number): ProbeEntry {
    return {
      identity: entry.identity,
      presence: entry.presence,
      hello: entry.hello,
      software: entry.software?.text,
      isDamped: this.#isDamped(entry),
      saidGoodbye: entry.goodbyeMonoMs !== undefined,
      duplicateIdentity:
        entry.duplicateMonoMs !== undefined &&
        nowMs - entry.duplicateMonoMs < SILENT_AFTER_INTERVALS * this.#settings.intervalMs,
      configured: this.#settings.isConfigured(entry.identity.site),
      admitted: this.#settings.isAdmitted?.(entry.identity) !== false,
      isAway: entry.presence === 'silent' && this.#isOverdue(entry, nowMs),
      heardAgoMs: nowMs - entry.heardMonoMs,
    };
  }

  #presenceOf(entry: Entry, nowMs: number): Presence {
    if (entry.goodbyeMonoMs !== undefined && nowMs - entry.goodbyeMonoMs > LEAVE_AFTER_GOODBYE_MS) return 'left';
    const { isConfigured, hasExpired } = this.#settings;
    const isKnown =
      this.#mayMeasure(entry.identity) || (isConfigured(entry.identity.site) && hasExpired?.(entry.identity) === true);
    if (!isKnown && entry.wasConfigured) return 'left';
    entry.wasConfigured = isKnown;
    const retiredAgoMs = this.#settings.retiredAgoMs?.(entry.identity);
    if (retiredAgoMs !== undefined && nowMs - entry.heardMonoMs >= retiredAgoMs) return 'left';
    const elsewhere = this.#settings.presenceElsewhere?.(entry.identity);
    if (elsewhere !== undefined) return elsewhere;
    const isExpected = isKnown && this.#settings.isExpected?.(entry.identity) !== false;
    if (!isExpected && this.#isOverdue(entry, nowMs)) return 'left';
    return nowMs - entry.heardMonoMs > SILENT_AFTER_INTERVALS * this.#settings.intervalMs ? 'silent' : 'live';
  }

  #isOverdue({ heardSightedMs }: Entry, nowMs: number): boolean {
    return this.#sighted(nowMs) - heardSightedMs > this.#settings.leaveAfterMs;
  }

  #hear(entry: Entry, ageMs: number, sightedAgeMs = ageMs): void {
    const nowMs = this.#monoMs();
    entry.heardMonoMs = Math.max(entry.heardMonoMs, nowMs - ageMs);
    entry.heardSightedMs = Math.max(entry.heardSightedMs, this.#sighted(nowMs) - sightedAgeMs);
  }

  #entryOf(identity: Identity): Entry {
    const key = formatIdentity(identity);
    const known = this.#entries.get(key);
    if (known !== undefined) return known;
    if (this.#entries.size >= MAX_PROBES) {
      throw new RejectedMessage('too_large', `more than ${MAX_PROBES} probes are known`);
    }
    const entry: Entry = {
      identity,
      hello: undefined,
      planned: undefined,
      changes: CHANGES_AT_ONCE,
      changesAtMs: this.#monoMs(),
      namesLeft: NAMES_AT_ONCE,
      namesAtMs: this.#monoMs(),
      names: new Set(),
      software: undefined,
      helloStreamSeq: undefined,
      presence: 'live',
      heardMonoMs: Number.NEGATIVE_INFINITY,
      heardSightedMs: Number.NEGATIVE_INFINITY,
      goodbyeMonoMs: undefined,
      leftMonoMs: undefined,
      wasConfigured: false,
      olderBoots: new Map(),
      duplicateMonoMs: undefined,
    };
    this.#entries.set(key, entry);
    this.#sorted = undefined;
    return entry;
  }

  #rememberBoot(entry: Entry, bootId: string, helloVersion: number): void {
    entry.olderBoots.set(bootId, Math.max(helloVersion, entry.olderBoots.get(bootId) ?? 0));
    if (entry.olderBoots.size > MAX_BOOTS) {
      const oldest = entry.olderBoots.keys().next().value;
      if (oldest !== undefined) entry.olderBoots.delete(oldest);
    }
  }

  #monoMs(): number {
    return this.#clock.monoNs() / NS_PER_MS;
  }

  #sighted(nowMonoMs: number): number {
    const blindNowMs = this.#blindSinceMonoMs === undefined ? 0 : nowMonoMs - this.#blindSinceMonoMs;
    return nowMonoMs - this.#blindTotalMs - blindNowMs;
  }
}

function isOlder(a: FullHello, b: FullHello): boolean {
  return a.startedAtMs < b.startedAtMs || (a.startedAtMs === b.startedAtMs && a.bootId < b.bootId);
}

/** What a plan depends on; the rest of a hello changes more often. */
function planInputs({ endpoints, icmp, cap, gateways, agreementKey }: FullHello): string {
  return JSON.stringify([endpoints, icmp, cap, gateways, agreementKey]);
}
