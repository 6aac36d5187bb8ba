/** Reordering, RFC 4737 section 3: a packet is reordered when its sequence number is below one that came before it. */
export class ReorderingDetector {
  #nextExpected = 0;

  /** Takes the sequence number of the next arrival (duplicates left out); true when it is reordered. */
  arrive(seq: number): boolean {
    if (seq < this.#nextExpected) return true;
    this.#nextExpected = seq + 1;
    return false;
  }
}
