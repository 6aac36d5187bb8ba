/**
 * What operators have paused: the fleet, a site or an uplink. Nothing is sent from there or to there until they resume it or its
 * time is over. Kept in a file, so that it survives a restart.
 */
import { isToken } from '@wanscope/shared';
import type { Logger } from './log.ts';
import { StateFile } from './state-file.ts';

export type PauseScope =
  | { readonly kind: 'fleet' }
  | { readonly kind: 'site'; readonly site: string }
  | { readonly kind: 'uplink'; readonly site: string; readonly uplink: string };

export interface Pause {
  readonly scope: PauseScope;
  readonly sinceMs: number;
  /** Undefined: until somebody resumes it. */
  readonly untilMs: number | undefined;
  readonly who: string;
  readonly reason: string;
}

/** What the planner asks of pauses. */
export interface PausedPlaces {
  /** True when nothing is sent from or to this uplink of a site; no uplink: from or to the site as a whole. */
  covers(site: string, uplink?: string): boolean;
}

export const NOTHING_PAUSED: PausedPlaces = { covers: () => false };

/** `fleet`, `site/<site>` or `uplink/<site>/<uplink>`. */
export function formatScope(scope: PauseScope): string {
  switch (scope.kind) {
    case 'fleet':
      return 'fleet';
    case 'site':
      return `site/${scope.site}`;
    case 'uplink':
      return `uplink/${scope.site}/${scope.uplink}`;
  }
}

/** Undefined when the text is none. */
export function parseScope(text: string): PauseScope | undefined {
  const [kind, site, uplink, ...rest] = text.split('/');
  if (rest.length > 0) return undefined;
  if (kind === 'fleet' && site === undefined) return { kind };
  if (kind === 'site' && site !== undefined && isToken(site) && uplink === undefined) return { kind, site };
  if (kind !== 'uplink' || site === undefined || uplink === undefined || !isToken(site) || !isToken(uplink)) {
    return undefined;
  }
  return { kind, site, uplink };
}

/** In the state directory. */
export const PAUSES_FILE = 'pauses.json';
const MAX_PAUSES = 4_096;
const VERSION = 1;

export class PauseBook implements PausedPlaces {
  readonly #file: StateFile | undefined;
  readonly #pauses = new Map<string, Pause>();
  #isDurable: boolean;

  /**
   * A file that cannot be read pauses the fleet until somebody resumes it: the probes of a forgotten pause would begin to send. It is
   * kept under another name.
   *
   * @param file undefined: they live in memory only.
   */
  constructor(file: string | undefined, nowMs: number, logger: Logger) {
    this.#file = file === undefined ? undefined : new StateFile(file);
    this.#isDurable = file !== undefined;
    try {
      for (const pause of this.#file?.load(parsePauses) ?? []) this.#pauses.set(formatScope(pause.scope), pause);
    } catch (error) {
      logger.error(
        { file, error: String(error) },
        'pauses cannot be read: the fleet is paused until somebody resumes it',
      );
      const reason = `${PAUSES_FILE} cannot be read: ${String(error)}; pause what is to stay paused, then resume the fleet`;
      this.pause({ scope: { kind: 'fleet' }, sinceMs: nowMs, untilMs: undefined, who: 'wan-collector', reason });
    }
  }

  get all(): readonly Pause[] {
    return [...this.#pauses.values()];
  }

  of(scope: PauseScope): Pause | undefined {
    return this.#pauses.get(formatScope(scope));
  }

  covers(site: string, uplink?: string): boolean {
    if (this.#pauses.size === 0) return false;
    return (
      this.#pauses.has('fleet') ||
      this.#pauses.has(`site/${site}`) ||
      (uplink !== undefined && uplink !== '' && this.#pauses.has(`uplink/${site}/${uplink}`))
    );
  }

  /** False while what is paused could not be written: it would be forgotten by a restart. */
  get isDurable(): boolean {
    return this.#isDurable;
  }

  /** Pauses, or pauses in another way what is paused. @returns false when there are too many. */
  pause(pause: Pause): boolean {
    const key = formatScope(pause.scope);
    if (!this.#pauses.has(key) && this.#pauses.size >= MAX_PAUSES) return false;
    this.#replace(new Map(this.#pauses).set(key, pause));
    return true;
  }

  /** @returns what was resumed. */
  resume(scope: PauseScope): Pause | undefined {
    const key = formatScope(scope);
    const pause = this.#pauses.get(key);
    if (pause === undefined) return undefined;
    const next = new Map(this.#pauses);
    next.delete(key);
    this.#replace(next);
    return pause;
  }

  /** @returns those whose time is over, which are no more. */
  expire(nowMs: number): readonly Pause[] {
    const over = this.all.filter(({ untilMs }) => untilMs !== undefined && untilMs <= nowMs);
    return over.flatMap(({ scope }) => this.resume(scope) ?? []);
  }

  #replace(next: ReadonlyMap<string, Pause>): void {
    this.#pauses.clear();
    for (const [key, pause] of next) this.#pauses.set(key, pause);
    try {
      this.#file?.write(formatPauses(this.all));
      this.#isDurable = this.#file !== undefined;
    } catch {
      // Obeyed all the same: who pauses has a reason to.
      this.#isDurable = false;
    }
  }
}

interface StoredPause {
  readonly scope: string;
  readonly sinceMs: number;
  readonly untilMs?: number;
  readonly who: string;
  readonly reason: string;
}

function parsePauses(text: string): Pause[] {
  const stored = JSON.parse(text) as { readonly v: number; readonly pauses: readonly StoredPause[] };
  if (stored.v !== VERSION) throw new Error(`it is of another version: ${stored.v}`);
  return stored.pauses.map(({ scope, untilMs, ...rest }) => {
    const parsed = parseScope(scope);
    if (parsed === undefined) throw new Error(`${scope} is nothing that can be paused`);
    return { ...rest, scope: parsed, untilMs };
  });
}

function formatPauses(pauses: readonly Pause[]): string {
  return JSON.stringify({ v: VERSION, pauses: pauses.map((pause) => ({ ...pause, scope: formatScope(pause.scope) })) });
}
