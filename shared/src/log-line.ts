/** Log lines that stay one line for every reader, and show what they hold. */

// DEL, C1 controls, the line and paragraph separators, and what turns the direction of text around.
const HIDDEN = /[\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** Escapes in a line of JSON what JSON lets through and terminals or readers of lines act upon; it stays the same JSON. */
export function escapeLogLine(line: string): string {
  return line.replace(HIDDEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
