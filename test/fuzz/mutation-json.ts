/** JSON whose values were changed, so that more of it is JSON still than when octets are. */
import type { Random } from '@wanscope/shared/testing';

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

const MAX_CHANGES = 3;
const VALUES: readonly Json[] = [
  null, true, false, 0, -0, 1, -1, 0.5, 2 ** 31, 2 ** 53, -(2 ** 53), 1e308, 255, 65_535, 65_536,
  '', '0', 'a', '-', '\0', '\u{1F600}', '\uD800', '127.0.0.1', '::1', 'x'.repeat(64), [], [[]], {}, [null],
]; // prettier-ignore
const KEYS = ['__proto__', 'constructor', 'toString', 'length', '', '0', 'v', 'x'] as const;

/**
 * @param text of which what is behind the first line is left out, that is seals.
 * @param isLarge one of its values is said so often that `maxBytes` are about filled.
 * @returns undefined where it is no JSON of objects or lists.
 */
export function mutatedJson(
  text: Buffer,
  corpus: readonly Uint8Array[],
  random: Random,
  maxBytes: number,
  isLarge: boolean,
): Uint8Array | undefined {
  const value = parsed(text);
  if (value === undefined) return undefined;
  for (let left = 1 + random.int(MAX_CHANGES); left > 0; left -= 1) change(value, corpus, random);
  if (isLarge) grow(value, random, maxBytes);
  return Buffer.from(JSON.stringify(value));
}

function parsed(input: Uint8Array): Exclude<Json, null | boolean | number | string> | undefined {
  const octets = Buffer.from(input.buffer, input.byteOffset, input.length);
  const end = octets.indexOf(0x0a);
  try {
    const value = JSON.parse(octets.toString('utf8', 0, end === -1 ? octets.length : end)) as Json;
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

/** A list or an object within it, itself more rarely than what is deep. */
function within(value: Json, random: Random): Json {
  let at = value;
  for (;;) {
    const inner = Object.values(at as object).filter(isNested);
    if (inner.length === 0 || random.int(4) === 0) return at;
    at = random.pick(inner);
  }
}

const isNested = (value: unknown): value is Exclude<Json, null | boolean | number | string> =>
  typeof value === 'object' && value !== null;

function change(root: Json, corpus: readonly Uint8Array[], random: Random): void {
  const at = within(root, random) as Record<string, Json>;
  const keys = Object.keys(at);
  const key = keys.length === 0 ? '0' : random.pick(keys);
  const given = (): Json => {
    const other = random.int(3) > 0 ? undefined : parsed(random.pick(corpus));
    if (other === undefined) return structuredCopy(random.pick(VALUES));
    const from = within(other, random);
    const values = Object.values(from as object) as Json[];
    return structuredCopy(values.length === 0 ? from : random.pick(values));
  };
  switch (random.int(6)) {
    case 0:
      if (Array.isArray(at)) at.splice(Number(key), 1);
      else Reflect.deleteProperty(at, key);
      return;
    case 1:
      put(at, random.pick(KEYS), given());
      return;
    case 2:
      at[key] = nudged(at[key] ?? null, random);
      return;
    case 3:
      if (Array.isArray(at)) at.push(structuredCopy((at[Number(key)] as Json | undefined) ?? given()));
      else put(at, `${key}${random.int(10)}`, structuredCopy(at[key] ?? null));
      return;
    default:
      put(at, key, given());
  }
}

/** As a parser would: also under the name that an assignment takes for another thing. */
function put(at: Record<string, Json>, key: string, value: Json): void {
  if (Array.isArray(at) && !(Number(key) < at.length)) at.push(value);
  else if (key !== '__proto__') at[key] = value;
  else Object.defineProperty(at, key, { value, enumerable: true, configurable: true, writable: true });
}

function nudged(value: Json, random: Random): Json {
  if (typeof value === 'number')
    return random.pick([value + 1, value - 1, -value, value * 2, value / 3, value + 2 ** 32]);
  if (typeof value === 'string') {
    const at = random.int(value.length + 1);
    const code = String.fromCharCode(random.int(random.int(4) === 0 ? 65_536 : 128));
    return value.slice(0, at) + code + value.slice(at + random.int(2));
  }
  return typeof value === 'boolean' ? !value : value;
}

/** Fills it with one of its values, or with a small one that is none of them. */
function grow(root: Json, random: Random, maxBytes: number): void {
  const at = within(root, random) as Record<string, Json>;
  const values = Object.values(at);
  const value = values.length === 0 || random.int(3) === 0 ? random.pick(VALUES) : random.pick(values);
  const bytes = Buffer.byteLength(JSON.stringify(value)) + 1;
  const room = maxBytes - Buffer.byteLength(JSON.stringify(root)) - 2;
  if (Array.isArray(at)) {
    for (let left = Math.floor(room / bytes); left > 0; left -= 1) at.push(value);
    return;
  }
  for (let left = room, i = 0; left > 0; i += 1) {
    const key = i.toString(36);
    left -= bytes + key.length + 3;
    if (left > 0) put(at, key, value);
  }
}

const structuredCopy = (value: Json): Json => (isNested(value) ? (JSON.parse(JSON.stringify(value)) as Json) : value);
