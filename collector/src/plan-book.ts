/**
 * The plans as published: their versions, what was in them, when they have to be renewed. A version grows when the
 * content changes and at no other time, across restarts of the collector too.
 */
import { createHash } from 'node:crypto';
import { encodePlan, formatIdentity, parseIdentity, type Identity, type Plan } from '@wanscope/shared';
import { IssuedDictionaries, type DictionaryStanding, type SavedDictionaries } from './issued-dictionaries.ts';
import type { PlanBody, ProbePlan } from './planner.ts';
import type { UplinkPlan } from './uplink-book.ts';

export interface SavedPlan {
  readonly identity: string;
  readonly version: number;
  readonly bodyHash: string;
  /** Absent in snapshots of collectors that kept no record of it. */
  readonly dictionaries?: SavedDictionaries;
}

export interface PlannedProbe {
  readonly plan: Plan;
  readonly stretch: number;
  readonly omittedSessions: number;
  /** The bounded uplinks that the probe has. */
  readonly uplinks: readonly UplinkPlan[];
}

export interface DuePlan {
  readonly identity: Identity;
  readonly plan: Plan;
}

/** A plan that could not be made: its probe keeps the last one. */
export interface PlanFailure {
  readonly sinceMs: number;
  readonly error: unknown;
}

/** A plan is given a version above the one that its probe claims so often at once, and then once in so long. */
const RENUMBERINGS_AT_ONCE = 4;
const RENUMBER_EVERY_MS = 15_000;
/** Of a plan without sessions: the report is a sign of life only. */
const EMPTY_PLAN_INTERVAL_MS = 60_000;

/** True for a version that may have been issued by now: at most one for each ms since 1970 was. */
export function isIssuable(version: number, nowMs: number): boolean {
  return version <= nowMs;
}

interface Page {
  version: number;
  /** Undefined: that of `stored`, and not needed yet. */
  bodyHash: string | undefined;
  /** The plan of this version as the bus holds it; taken up again when nothing in it has to change. */
  stored: Plan | undefined;
  current: PlannedProbe | undefined;
  /** Must be sent (again). */
  due: boolean;
  /** A version that the probe says it runs, and that this plan is to be above of; 0: none. */
  claimed: number;
  /** How often that may still be done, and when that was so. */
  renumberings: number;
  renumberedAtMs: number;
  readonly dictionaries: IssuedDictionaries;
}

export class PlanBook {
  readonly #pages = new Map<string, Page>();
  /** By identity; `bodyHash` of a plan that was made and cannot be encoded. */
  readonly #failures = new Map<string, PlanFailure & { readonly bodyHash?: string }>();
  #outdated = true;

  /** True when a version was found that is not ours, so that `update` has to issue a plan above it. */
  get isOutdated(): boolean {
    return this.#outdated;
  }

  /** How much is planned. */
  summary(): { readonly probes: number; readonly paused: number; readonly sessions: number } {
    const plans = [...this.current()].map(([, { plan }]) => plan);
    return {
      probes: plans.length,
      paused: plans.filter(({ paused }) => paused).length,
      sessions: plans.reduce((sum, { sessions }) => sum + sessions.length, 0),
    };
  }

  /**
   * Takes the plans the fleet should have now. A probe whose plan cannot be encoded keeps its last one.
   *
   * @param dismissed probes that are to measure nothing any more: each that has a plan gets one without sessions.
   * @param failed what planning threw, by probe: these keep their last plan, too.
   * @returns what failed now and had not failed in this way before.
   */
  update(
    plans: ReadonlyMap<string, ProbePlan>,
    nowMs: number,
    expiryMs: number,
    dismissed: readonly Identity[] = [],
    failed: ReadonlyMap<string, unknown> = new Map(),
  ): [string, unknown][] {
    this.#outdated = false;
    const added: [string, unknown][] = [];
    const failedBefore = new Map(this.#failures);
    this.#failures.clear();
    const fail = (identity: string, error: unknown, bodyHash?: string): void => {
      const before = failedBefore.get(identity);
      const isKnown = bodyHash === undefined ? before !== undefined : before?.bodyHash === bodyHash;
      this.#failures.set(identity, { sinceMs: before?.sinceMs ?? nowMs, error, ...(bodyHash && { bodyHash }) });
      if (!isKnown) added.push([identity, error]);
    };
    for (const [identity, error] of failed) fail(identity, error);
    for (const [identity, { body, stretch, omittedSessions, uplinks }] of plans) {
      const page = this.#page(identity);
      const bodyHash = hashOf(body);
      page.bodyHash ??= hashOfStored(page);
      if (page.bodyHash === bodyHash && page.current !== undefined) {
        page.current = { ...page.current, uplinks };
        continue;
      }
      const stored = page.stored;
      if (page.bodyHash === bodyHash && stored?.version === page.version && stored.expiresAtMs > nowMs) {
        page.current = { plan: stored, stretch, omittedSessions, uplinks };
        continue;
      }
      const plan: Plan = { ...body, version: page.version + 1, issuedAtMs: nowMs, expiresAtMs: nowMs + expiryMs };
      const before = failedBefore.get(identity);
      const error = before?.bodyHash === bodyHash ? before.error : whyNotEncoded(plan);
      if (error !== undefined) {
        fail(identity, error, bodyHash);
        continue;
      }
      page.version = plan.version;
      page.bodyHash = bodyHash;
      page.stored = undefined;
      page.current = { plan, stretch, omittedSessions, uplinks };
      page.dictionaries.issue(plan, nowMs);
      page.due = true;
    }
    for (const [identity, page] of this.#pages) {
      if (!plans.has(identity) && !failed.has(identity)) page.current = undefined;
    }
    for (const identity of dismissed) this.#dismiss(identity, nowMs, expiryMs);
    return added;
  }

  /** Probes whose plan could not be made when it was last tried. */
  failures(): [string, PlanFailure][] {
    return [...this.#failures];
  }

  #dismiss(identity: Identity, nowMs: number, expiryMs: number): void {
    const page = this.#pages.get(formatIdentity(identity));
    if (page === undefined || page.version === 0) return;
    const body = emptyPlan(identity);
    const bodyHash = hashOf(body);
    page.bodyHash ??= hashOfStored(page);
    if (page.bodyHash === bodyHash) return;
    page.version += 1;
    page.bodyHash = bodyHash;
    page.stored = { ...body, version: page.version, issuedAtMs: nowMs, expiresAtMs: nowMs + expiryMs };
    page.due = true;
  }

  /** Issues plans anew, as a next version, that have used up half of their time. */
  renew(nowMs: number, expiryMs: number): void {
    for (const page of this.#pages.values()) {
      const current = page.current;
      if (current === undefined) continue;
      const { issuedAtMs, expiresAtMs } = current.plan;
      if (nowMs >= issuedAtMs && nowMs < (issuedAtMs + expiresAtMs) / 2) continue;
      page.version += 1;
      const plan = { ...current.plan, version: page.version, issuedAtMs: nowMs, expiresAtMs: nowMs + expiryMs };
      page.current = { ...current, plan };
      page.due = true;
    }
  }

  /**
   * A probe says which version it runs: another than ours is answered with ours, a higher one (of a collector whose
   * state was lost) with one above it, which `renumber` makes: a probe that claims versions costs its own plan, and no planning.
   *
   * @param isPlanner false: another collector answers it.
   */
  probeRuns(identity: Identity, version: number, isPlanner = true): void {
    const page = this.#page(formatIdentity(identity));
    if (version > page.version) {
      if (isPlanner && (page.current ?? page.stored) !== undefined) {
        page.claimed = Math.max(page.claimed, version);
        return;
      }
      page.version = version;
      if (page.current === undefined) return;
      page.current = undefined;
      this.#outdated = true;
    } else if ((page.current ?? page.stored) !== undefined && version !== page.version) {
      page.due = true;
    }
  }

  /** Gives the plans whose probes run a higher version one above that; each probe has a share of that. */
  renumber(nowMs: number, expiryMs: number): void {
    for (const page of this.#pages.values()) {
      const { claimed } = page;
      const plan = page.current?.plan ?? page.stored;
      if (claimed === 0 || plan === undefined) continue;
      if (claimed <= page.version) {
        page.claimed = 0;
        continue;
      }
      const gained = Math.max(0, nowMs - page.renumberedAtMs) / RENUMBER_EVERY_MS;
      page.renumberings = Math.min(RENUMBERINGS_AT_ONCE, page.renumberings + gained);
      page.renumberedAtMs = nowMs;
      if (page.renumberings < 1) continue;
      page.renumberings -= 1;
      page.claimed = 0;
      page.version = claimed + 1;
      const next = { ...plan, version: page.version, issuedAtMs: nowMs, expiresAtMs: nowMs + expiryMs };
      if (page.current === undefined) page.stored = next;
      else page.current = { ...page.current, plan: next };
      page.due = true;
    }
  }

  /** A plan found on the bus: another collector's, or our own from before a restart. */
  published(identity: Identity, plan: Plan, nowMs: number): void {
    const page = this.#page(formatIdentity(identity));
    if (plan.version !== page.current?.plan.version) {
      // Another collector issued it, or this one before a restart: it may have issued others before.
      page.dictionaries.openFor(nowMs);
      page.dictionaries.issue(plan, nowMs);
    }
    if (plan.version < page.version || (plan.version === page.version && page.current !== undefined)) return;
    page.version = plan.version;
    page.bodyHash = undefined;
    page.stored = plan;
    page.current = undefined;
    this.#outdated = true;
  }

  /** Everything is to be sent again, as after a broker lost its store. @param isThere true for those that it still has. */
  markAllDue(isThere: (identity: string, version: number) => boolean = () => false): void {
    for (const [identity, page] of this.#pages) {
      page.due = page.current !== undefined && !isThere(identity, page.version);
    }
  }

  /**
   * What has to be published, in this order: who never had a plan has to know its peers' keys before they measure it. Each is due
   * again only when marked so.
   */
  takeDue(): DuePlan[] {
    const due: DuePlan[] = [];
    for (const [key, page] of this.#pages) {
      const identity = parseIdentity(key);
      const plan = page.current?.plan ?? page.stored;
      if (!page.due || plan === undefined || identity === undefined) continue;
      page.due = false;
      due.push({ identity, plan });
    }
    const isFirst = ({ plan }: DuePlan): number => Number(plan.version === 1);
    return due.sort((one, other) => isFirst(other) - isFirst(one));
  }

  /** Whether the probe waits for a plan. */
  isDue(name: string): boolean {
    return this.#pages.get(name)?.due === true;
  }

  /** Publishing failed: try again. */
  markDue(identity: Identity): void {
    const page = this.#pages.get(formatIdentity(identity));
    if (page !== undefined) page.due = true;
  }

  planOf(identity: Identity): PlannedProbe | undefined {
    return this.#pages.get(formatIdentity(identity))?.current;
  }

  /** The bounded uplinks of all plans, each once. */
  uplinks(): UplinkPlan[] {
    const all = new Map<string, UplinkPlan>();
    for (const [, { uplinks }] of this.current()) {
      for (const uplink of uplinks) all.set(`${uplink.site}/${uplink.uplink}`, uplink);
    }
    return [...all.values()];
  }

  /** Current plans by identity. */
  current(): [string, PlannedProbe][] {
    return [...this.#pages].flatMap(([identity, page]) =>
      page.current === undefined ? [] : [[identity, page.current] as [string, PlannedProbe]],
    );
  }

  /** The plans that probes have by now, also those that another collector made. */
  issued(): [string, Plan][] {
    return [...this.#pages].flatMap(([identity, { current, stored }]) => {
      const plan = current?.plan ?? stored;
      return plan === undefined ? [] : [[identity, plan] as [string, Plan]];
    });
  }

  /** What is known of a dictionary that this probe uses. */
  dictionaryStanding(identity: Identity, hash: string, nowMs: number): DictionaryStanding {
    return this.#pages.get(formatIdentity(identity))?.dictionaries.standingOf(hash, nowMs) ?? 'unknown';
  }

  issuedTo(identity: Identity): Plan | undefined {
    const page = this.#pages.get(formatIdentity(identity));
    return page?.current?.plan ?? page?.stored;
  }

  save(): SavedPlan[] {
    return [...this.#pages].map(([identity, page]) => ({
      identity,
      version: page.version,
      bodyHash: page.bodyHash ?? hashOfStored(page),
      dictionaries: page.dictionaries.save(),
    }));
  }

  restore(saved: readonly SavedPlan[], nowMs: number): void {
    for (const { identity, version, bodyHash, dictionaries: known } of saved) {
      const dictionaries = new IssuedDictionaries(known);
      if (known === undefined) dictionaries.openFor(nowMs);
      // Earlier releases went on from whatever a probe said that it ran.
      const from = isIssuable(version, nowMs) ? { version, bodyHash } : { version: 0, bodyHash: '' };
      this.#pages.set(identity, { ...newPage(dictionaries), ...from });
    }
  }

  #page(identity: string): Page {
    const known = this.#pages.get(identity);
    if (known !== undefined) return known;
    const page = newPage(new IssuedDictionaries());
    this.#pages.set(identity, page);
    return page;
  }
}

function newPage(dictionaries: IssuedDictionaries): Page {
  return {
    ...{ version: 0, bodyHash: '', stored: undefined, current: undefined, due: false },
    ...{ claimed: 0, renumberings: RENUMBERINGS_AT_ONCE, renumberedAtMs: 0 },
    dictionaries,
  };
}

/** Undefined for a plan that fits in its message. */
function whyNotEncoded(plan: Plan): unknown {
  try {
    encodePlan(plan);
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Nothing to send, and nobody to expect. */
function emptyPlan({ site, probe }: Identity): PlanBody {
  const nothing = { tests: [], sources: [], destinations: [], sessions: [] };
  return { v: 1, site, probe, intervalMs: EMPTY_PLAN_INTERVAL_MS, paused: false, ...nothing };
}

function hashOfStored({ stored }: Page): string {
  if (stored === undefined) return '';
  const { version: _version, issuedAtMs: _issued, expiresAtMs: _expires, ...body } = stored;
  return hashOf(body);
}

/** Field order differs between a plan made here and one read from the bus: fields are taken by name. */
function hashOf(body: PlanBody): string {
  const byName = (_key: string, value: unknown): unknown =>
    value !== null && typeof value === 'object' && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value;
  return createHash('sha256').update(JSON.stringify(body, byName)).digest('hex');
}
