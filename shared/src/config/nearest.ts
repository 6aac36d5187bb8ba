/** What somebody may have meant who wrote a name that does not exist. */

/** ` did you mean "tests"?`, or nothing where no name is near. */
export function didYouMean(written: string, names: Iterable<string>): string {
  const most = Math.min(3, Math.floor(written.length / 3));
  let [best, distance] = ['', most + 1];
  for (const name of names) {
    if (Math.abs(name.length - written.length) >= distance) continue;
    const edits = editsBetween(written.toLowerCase(), name.toLowerCase());
    if (edits < distance) [best, distance] = [name, edits];
  }
  return distance > most ? '' : ` did you mean ${JSON.stringify(best)}?`;
}

/** Levenshtein's distance. */
function editsBetween(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
