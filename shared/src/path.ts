/**
 * Paths and the dictionary that names them on the wire.
 *
 * A path is directed: (source endpoint, destination endpoint, test, family). Its key is stable across plans, boots and
 * collectors. Reports do not carry it: they carry a plan index, and a dictionary message maps plan indices to paths.
 */
import { createHash } from 'node:crypto';
import { RejectedMessage } from './errors.ts';
import { isToken, MAX_MESSAGE_BYTES, type Identity } from './subjects.ts';

export const PROTOCOLS = ['icmp', 'udp', 'tcp', 'http', 'dns'] as const;
export type Protocol = (typeof PROTOCOLS)[number];

export const FAMILIES = ['ipv4', 'ipv6'] as const;
export type Family = (typeof FAMILIES)[number];

export const ENDPOINT_KINDS = ['probe', 'container', 'responder', 'external'] as const;
export type EndpointKind = (typeof ENDPOINT_KINDS)[number];

/** The site label of everything that has no site of its own. A configured site may not have this name. */
export const EXTERNAL_SITE = 'external';

/**
 * The way out of a site, nearest first. A configured address of one is measured by its site as an external endpoint of
 * this name, with a test of this name.
 */
export const SEGMENTS = ['lan-gateway', 'wan-next-hop', 'provider-edge'] as const;
export type Segment = (typeof SEGMENTS)[number];

/** What identifies a path; the fields are the path's labels. Uplinks are '' when none is declared. */
export interface PathParts {
  readonly network: string;
  readonly srcSite: string;
  readonly src: string;
  readonly srcUplink: string;
  readonly dstSite: string;
  readonly dst: string;
  readonly dstUplink: string;
  /** Differs from `network` only where a path crosses address spaces. */
  readonly dstNetwork: string;
  readonly dstKind: EndpointKind;
  readonly test: string;
  readonly protocol: Protocol;
  /** Per-hop-behaviour name, e.g. "BE" or "EF". */
  readonly class: string;
  readonly family: Family;
}

/** The fields of a path in the order of its canonical text. */
export const PATH_FIELDS = [
  'network',
  'srcSite',
  'src',
  'srcUplink',
  'dstSite',
  'dst',
  'dstUplink',
  'dstNetwork',
  'dstKind',
  'test',
  'protocol',
  'class',
  'family',
] as const satisfies readonly (keyof PathParts)[];
export type PathField = (typeof PATH_FIELDS)[number];

/** The one text that stands for a path: its fields in fixed order, separated by a character no field may hold. */
export function canonicalPath(parts: Readonly<Record<PathField, string>>): string {
  return PATH_FIELDS.map((field) => parts[field]).join('|');
}

/** First 128 bits of SHA-256 over the canonical parts, as 32 hex digits. */
export function pathKey(parts: PathParts): string {
  return createHash('sha256').update(canonicalPath(parts)).digest('hex').slice(0, 32);
}

/** Plan index -> path for one plan of one probe. */
export interface Dictionary {
  /** First 64 bits of SHA-256 over the canonical bytes, as 16 hex digits. */
  readonly hash: string;
  /** Position is the plan index. */
  readonly paths: readonly PathParts[];
}

const LABEL = /^[^|"\\\p{Cc}]+$/u;
/** In UTF-16 units, as an endpoint's name is measured elsewhere. */
const MAX_NAME_LENGTH = 128;
const CLASS = /^[A-Z0-9]{1,8}$/;
const isUplink = (text: string): boolean => text === '' || isToken(text);
const oneOf =
  (values: readonly string[]) =>
  (text: string): boolean =>
    values.includes(text);
const isEndpointName = (text: string): boolean => text.length <= MAX_NAME_LENGTH && LABEL.test(text);

/** Plain functions: a dictionary may have thousands of paths. */
const IS_FIELD: Readonly<Record<PathField, (text: string) => boolean>> = {
  network: isToken,
  srcSite: isToken,
  src: isToken,
  srcUplink: isUplink,
  dstSite: isToken,
  dst: isEndpointName,
  dstUplink: isUplink,
  dstNetwork: isToken,
  dstKind: oneOf(ENDPOINT_KINDS),
  test: isToken,
  protocol: oneOf(PROTOCOLS),
  class: (text) => CLASS.test(text),
  family: oneOf(FAMILIES),
};

const MAGIC = 'wanscope-dictionary 1\n';

function canonicalBytes(paths: readonly PathParts[]): Buffer {
  return Buffer.from(MAGIC + paths.map(canonicalPath).join('\n'));
}

function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 16);
}

export function dictionaryOf(paths: readonly PathParts[]): Dictionary {
  return { hash: hashOf(canonicalBytes(paths)), paths };
}

/** The dictionary as a message. Its hash is not in it: the receiver computes it. */
export function encodeDictionary(dictionary: Dictionary): Uint8Array {
  return canonicalBytes(dictionary.paths);
}

/** True when a message on a report subject is a dictionary (the other kind is a report). */
export function isDictionary(bytes: Uint8Array): boolean {
  return bytes.length >= MAGIC.length && Buffer.from(bytes.subarray(0, MAGIC.length)).toString('latin1') === MAGIC;
}

/**
 * Reads a dictionary that `owner` published.
 *
 * @throws RejectedMessage when it is too large, malformed, names a path twice, or names a path of another source.
 */
export function decodeDictionary(bytes: Uint8Array, owner: Identity): Dictionary {
  if (bytes.length > MAX_MESSAGE_BYTES) throw new RejectedMessage('too_large', `dictionary of ${bytes.length} octets`);
  if (!isDictionary(bytes)) throw new RejectedMessage('bad_magic', 'not a dictionary');
  const text = Buffer.from(bytes.subarray(MAGIC.length)).toString('utf8');
  const lines = text === '' ? [] : text.split('\n');
  const seen = new Set<string>();
  const paths = lines.map((line, index): PathParts => {
    const values = line.split('|');
    if (values.length !== PATH_FIELDS.length) {
      throw new RejectedMessage('malformed', `dictionary entry ${index} has ${values.length} fields`);
    }
    const parts = {} as Record<PathField, string>;
    for (const [i, field] of PATH_FIELDS.entries()) {
      const value = values[i]!;
      if (!IS_FIELD[field](value)) throw new RejectedMessage('malformed', `dictionary entry ${index}: ${field}`);
      parts[field] = value;
    }
    if (parts.srcSite !== owner.site || parts.src !== owner.probe) {
      throw new RejectedMessage('wrong_identity', `dictionary entry ${index} is a path of another probe`);
    }
    if (seen.has(line)) throw new RejectedMessage('impossible_value', `dictionary entry ${index} repeats a path`);
    seen.add(line);
    return parts as PathParts;
  });
  return { hash: hashOf(bytes), paths };
}
