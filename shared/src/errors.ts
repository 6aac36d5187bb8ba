/**
 * Errors that callers are meant to tell apart.
 *
 * Operational failures are subclasses with a stable `code`; what a peer sent wrong is a `Rejected` with a stable
 * `cause` that becomes a metric label. Bugs throw plain errors and crash.
 */

export abstract class WanscopeError extends Error {
  abstract readonly code: string;

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** Why a message was refused as a whole. These are label values: add, never rename. */
export const REJECT_CAUSES = [
  'too_large',
  'truncated',
  'bad_magic',
  'unsupported_version',
  'bad_length',
  'bad_checksum',
  'malformed',
  'impossible_value',
  'wrong_identity',
  'unknown_dictionary',
  'unknown_site',
  'duplicate_identity',
  'over_cap',
  'expired',
  'stale_version',
  'unexpected_subject',
  'unsigned',
  'bad_signature',
  'unknown_key',
  'revoked_key',
  'replayed',
  'unplanned_path',
  'flood',
] as const;

export type RejectCause = (typeof REJECT_CAUSES)[number];

/** A message that was refused whole. `reason` is for a log line, `rejectCause` for a metric label. */
export class RejectedMessage extends WanscopeError {
  readonly code = 'REJECTED_MESSAGE';
  readonly rejectCause: RejectCause;

  constructor(rejectCause: RejectCause, reason: string) {
    super(reason);
    this.rejectCause = rejectCause;
  }
}

/** Settings or configuration that cannot be used; `problems` has one line for each thing wrong. */
export class InvalidConfiguration extends WanscopeError {
  readonly code = 'INVALID_CONFIGURATION';
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join('\n'));
    this.problems = problems;
  }
}

/** For the `default` branch of a switch over a union: does not compile while a case is missing. */
export function unreachable(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
