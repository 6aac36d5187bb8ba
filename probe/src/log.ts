/** What the probe's parts need of a logger (pino's shape), and a way to say a thing once. */

export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Runs an action the first time each cause is seen: for log lines that would otherwise repeat for ever. */
export class OncePerCause {
  readonly #seen = new Set<string>();

  /** `cause` comes from a closed set, never from a peer. */
  run(cause: string, action: () => void): void {
    if (this.#seen.has(cause)) return;
    this.#seen.add(cause);
    action();
  }

  /** The cause is over: its next time is told again. */
  forget(cause: string): void {
    this.#seen.delete(cause);
  }
}
