/** How many sockets may be open at once for connects, so that a slow network cannot use up the process's descriptors. */
const MOST = 256;
const LEAST = 16;

/**
 * Half of the descriptors that the process may have, so that the other half is left for what it reads and keeps open.
 *
 * @param limits content of `/proc/self/limits`.
 */
export function socketLimitOf(limits: string): number {
  const [, files] = /^Max open files\s+(\d+)/m.exec(limits) ?? [];
  return files === undefined ? MOST : Math.max(LEAST, Math.min(MOST, Math.floor(Number(files) / 2)));
}

export class SocketLimit {
  readonly #limit: number;
  #open = 0;

  constructor(limit = MOST) {
    this.#limit = limit;
  }

  get open(): number {
    return this.#open;
  }

  take(): boolean {
    if (this.#open >= this.#limit) return false;
    this.#open += 1;
    return true;
  }

  release(): void {
    this.#open -= 1;
  }
}
