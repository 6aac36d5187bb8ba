/**
 * What is read on a timer from the machine: without a free descriptor (EMFILE) even the list of interfaces cannot be read, and the last
 * that was known holds until it can.
 */

/** Never throws. @param first until it could be read once. */
export function lastKnown<T>(read: () => T, first: T): () => T {
  let known = first;
  return () => {
    try {
      known = read();
    } catch {
      // The next reading may do.
    }
    return known;
  };
}
