/** Which addresses of the machine, or of a namespace of it, have gone since the probe started. Pure; the list of addresses is given. */
import { sameAddress } from './net/destination.ts';

/** What one look found: addresses that were there before, and addresses that were not. */
export interface AddressChange {
  readonly gone: readonly string[];
  readonly come: readonly string[];
}

export class AddressWatch {
  readonly #read: () => readonly string[] | undefined;
  #present: ReadonlySet<string>;
  readonly #gone = new Set<string>();

  /** @param read every address there is now; undefined when that cannot be told, which changes nothing. */
  constructor(read: () => readonly string[] | undefined) {
    this.#read = read;
    this.#present = new Set(read());
  }

  /** Looks again; undefined when nothing has changed. */
  look(): AddressChange | undefined {
    const read = this.#read();
    if (read === undefined) return undefined;
    const present = new Set(read);
    const gone = [...this.#present].filter((address) => !present.has(address));
    const come = [...present].filter((address) => !this.#present.has(address));
    if (gone.length + come.length === 0) return undefined;
    this.#present = present;
    for (const address of gone) this.#gone.add(address);
    for (const address of come) this.#gone.delete(address);
    return { gone, come };
  }

  /** True when it was there at the last look and is not at this moment. */
  isGoing(address: string): boolean {
    const known = this.#present.has(address) || [...this.#present].some((one) => sameAddress(one, address));
    return known && this.#read()?.some((one) => sameAddress(one, address)) === false;
  }

  /** True when it was there once and is not now. One that never was may be bound all the same (127.0.0.0/8, a free bind). */
  isGone(address: string): boolean {
    if (this.#gone.has(address)) return true;
    for (const gone of this.#gone) if (sameAddress(gone, address)) return true;
    return false;
  }
}
