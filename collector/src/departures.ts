/**
 * Probes that left for good as far as anybody knows: they said goodbye, an operator retired them, or they fell silent at a site that
 * only `sites.auto` took. Kept in a file, so that a restart neither brings them back nor forgets that they went. A probe that is heard
 * of again is no longer among them.
 */
import { formatIdentity, parseIdentity, type Identity } from '@wanscope/shared';
import type { Logger } from './log.ts';
import { StateFile } from './state-file.ts';

export type DepartureCause = 'goodbye' | 'retired' | 'silent';

export interface Departure {
  readonly identity: Identity;
  readonly atMs: number;
  readonly cause: DepartureCause;
  /** Who retired it; the collector where nobody did. */
  readonly who: string;
  readonly reason: string;
}

const MAX_DEPARTURES = 4_096;
const VERSION = 1;

export class DepartureBook {
  readonly #file: StateFile | undefined;
  readonly #logger: Logger;
  readonly #departures = new Map<string, Departure>();

  /** @param file undefined: they live in memory only. One that cannot be read is logged, counts as empty, and is kept under another name. */
  constructor(file: string | undefined, logger: Logger) {
    this.#file = file === undefined ? undefined : new StateFile(file);
    this.#logger = logger;
    try {
      for (const departure of this.#file?.load(parseDepartures) ?? []) this.#put(departure);
    } catch (error) {
      logger.error(
        { file, error: String(error) },
        'departures cannot be read: probes that left may show as silent again',
      );
      this.#write();
    }
  }

  /** Oldest first. */
  get all(): readonly Departure[] {
    return [...this.#departures.values()];
  }

  of(identity: Identity): Departure | undefined {
    return this.#departures.get(formatIdentity(identity));
  }

  add(departure: Departure): void {
    this.#put(departure);
    this.#write();
  }

  /** The probe is there again. */
  remove(identity: Identity): void {
    if (this.#departures.delete(formatIdentity(identity))) this.#write();
  }

  #put(departure: Departure): void {
    const key = formatIdentity(departure.identity);
    this.#departures.delete(key);
    this.#departures.set(key, departure);
    const oldest = this.#departures.size > MAX_DEPARTURES ? this.#departures.keys().next().value : undefined;
    if (oldest !== undefined) this.#departures.delete(oldest);
  }

  #write(): void {
    if (this.#file === undefined) return;
    const departures = this.all.map(({ identity, ...rest }) => ({ probe: formatIdentity(identity), ...rest }));
    try {
      this.#file.write(JSON.stringify({ v: VERSION, departures }));
    } catch (error) {
      this.#logger.error(
        { file: this.#file.path, error: String(error) },
        'departures cannot be written: after a restart probes that left may show as silent',
      );
    }
  }
}

interface StoredDeparture {
  readonly probe: string;
  readonly atMs: number;
  readonly cause: DepartureCause;
  readonly who: string;
  readonly reason: string;
}

function parseDepartures(text: string): Departure[] {
  const stored = JSON.parse(text) as { readonly v: number; readonly departures: readonly StoredDeparture[] };
  if (stored.v !== VERSION) throw new Error(`it is of another version: ${stored.v}`);
  return stored.departures.flatMap(({ probe, ...rest }) => {
    const identity = parseIdentity(probe);
    return identity === undefined ? [] : [{ ...rest, identity }];
  });
}
