/** Where claims are answered: one after the other, each on disk before its device hears of it. */
import { formatIdentity, type Identity } from '@wanscope/shared';
import type { AuditAction } from '../audit.ts';
import { answerClaim, type AnsweredClaim } from './claims.ts';
import { filesOf, haveAccountsChanged, isOpenClaim, type Fleet } from './fleet.ts';
import type { Folder } from './folder.ts';

/** A device that was answered says that it has it on disk; what it says may be lost. */
const SETTLING_MS = 60_000;
const COUNTS_EVERY_MS = 10_000;

export interface ClaimDeskOptions {
  readonly folder: Folder;
  readonly load: () => Fleet;
  /** A line in the audit of the fleet. */
  readonly note: (action: AuditAction, what: string, now: unknown) => void;
  /** Tells the broker of the account as it is. */
  readonly tell: (fleet: Fleet) => Promise<void>;
  readonly say: (line: string) => void;
}

export class ClaimDesk {
  readonly #options: ClaimDeskOptions;
  /** Not on disk yet. */
  readonly #refused = new Map<string, number>();
  #countedAtMs = 0;
  /** What the broker does not know yet. */
  #untold: Fleet | undefined;

  constructor(options: ClaimDeskOptions) {
    this.#options = options;
  }

  async answer(identity: Identity, bytes: Uint8Array): Promise<Uint8Array | undefined> {
    const nowMs = Date.now();
    // Most of what is refused needs neither the lock nor the disk.
    const first = await answerClaim(this.#options.load(), identity, bytes, nowMs);
    const { answer, outcome } = first.outcome.kind === 'refused' ? first : await this.#take(identity, bytes, nowMs);
    const name = formatIdentity(identity);
    if (outcome.kind === 'refused') {
      const { cause } = outcome;
      if (!this.#refused.has(cause)) this.#options.say(`refused a claim of ${name}: ${cause}`);
      this.#refused.set(cause, (this.#refused.get(cause) ?? 0) + 1);
    } else if (outcome.kind === 'granted') {
      // Whoever had the name before is out before the next one is in.
      if (outcome.revoked.length > 0) await this.#tellBroker();
      this.#options.say(`${name} is enrolled${outcome.isAgain ? ', which it did not know yet' : ''}: ${outcome.key}`);
    }
    return answer;
  }

  /** Tells the broker what could wait, and writes what was counted, from time to time or, at the `end`, now. */
  async flush(end = false): Promise<void> {
    await this.#tellBroker();
    if (this.#refused.size === 0 || (!end && Date.now() - this.#countedAtMs < COUNTS_EVERY_MS)) return;
    this.#countedAtMs = Date.now();
    const { folder, load } = this.#options;
    await folder.alone(() => {
      const fleet = load();
      if (fleet.claims === undefined) return;
      const refused = { ...fleet.claims.refused };
      for (const [cause, count] of this.#refused) refused[cause] = (refused[cause] ?? 0) + count;
      folder.writeAll(filesOf({ ...fleet, claims: { ...fleet.claims, refused } }));
      this.#refused.clear();
    });
  }

  /** Whether nobody could make a claim any more, and everybody who did has what it got. */
  isDone(nowMs: number): boolean {
    const issued = this.#options.load().claims?.issued ?? [];
    return issued.every(
      (claim) =>
        (!isOpenClaim(claim) || claim.expiresAtMs <= nowMs) &&
        (claim.used === undefined || claim.settledAtMs !== undefined || nowMs - claim.used.atMs > SETTLING_MS),
    );
  }

  async #take(identity: Identity, bytes: Uint8Array, nowMs: number): Promise<AnsweredClaim> {
    const { folder, load, note } = this.#options;
    return folder.alone(async () => {
      const before = load();
      const answered = await answerClaim(before, identity, bytes, nowMs);
      const { fleet, outcome } = answered;
      if (fleet === before) return answered;
      folder.writeAll(filesOf(fleet));
      if (haveAccountsChanged(before, fleet)) this.#untold = fleet;
      const name = formatIdentity(identity);
      if (outcome.kind === 'granted' && !outcome.isAgain) {
        note('enrol', name, { by: 'claim', key: outcome.key, revoked: outcome.revoked });
      }
      return answered;
    });
  }

  async #tellBroker(): Promise<void> {
    const fleet = this.#untold;
    if (fleet === undefined) return;
    try {
      await this.#options.tell(fleet);
      if (this.#untold === fleet) this.#untold = undefined;
    } catch (error) {
      this.#options.say(`the broker was not told: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}
