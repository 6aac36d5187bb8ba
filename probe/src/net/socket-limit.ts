/** How many sockets may be open at once for connects, so that a slow network cannot use up the process's descriptors. */
export class SocketLimit {
  readonly #limit: number;
  #open = 0;

  constructor(limit = 256) {
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
