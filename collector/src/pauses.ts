/**
 * What operators have paused: the fleet, a site or an uplink. Nothing is sent from there or to there until they resume it or its
 * time is over. Kept in a file, so that it survives a restart.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { isToken } from '@wanscope/shared';
import { replaceFile } from './durable-file.ts';

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

const MAX_PAUSES = 4_096;

export class PauseBook implements PausedPlaces {
  readonly #file: string | undefined;
  readonly #pauses = new Map<string, Pause>();
  #isDurable: boolean;

  /**
   * @param file undefined: they live in memory only.
   * @throws Error when the file is there and cannot be read: a collector that forgot a pause would start to send.
   */
  constructor(file: string | undefined) {
    this.#file = file;
    this.#isDurable = file !== undefined;
    for (const pause of file === undefined ? [] : readPauses(file)) this.#pauses.set(formatScope(pause.scope), pause);
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
      if (this.#file !== undefined) writePauses(this.#file, this.all);
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

function readPauses(file: string): Pause[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  const stored = JSON.parse(text) as { readonly v: number; readonly pauses: readonly StoredPause[] };
  if (stored.v !== 1) throw new Error(`${file} is of another version: ${stored.v}`);
  return stored.pauses.map(({ scope, untilMs, ...rest }) => {
    const parsed = parseScope(scope);
    if (parsed === undefined) throw new Error(`${file}: ${scope} is nothing that can be paused`);
    return { ...rest, scope: parsed, untilMs };
  });
}

function writePauses(file: string, pauses: readonly Pause[]): void {
  const stored = pauses.map((pause) => ({ ...pause, scope: formatScope(pause.scope) }));
  mkdirSync(dirname(file), { recursive: true });
  replaceFile(file, JSON.stringify({ v: 1, pauses: stored }));
}
