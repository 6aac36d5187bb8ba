/**
 * Files of settings in YAML, held against a schema. A bad file is refused whole, with every problem named as
 * `file:line: path: what is wrong; what is allowed`.
 */
import {
  isAlias,
  isCollection,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  visit,
  type Document,
} from 'yaml';
import type { z } from 'zod';
import { InvalidConfiguration } from '../errors.ts';

const MAX_ALIASES = 100;
/** Each is looked up among all nodes of the file. */
const MAX_ALIASES_IN_ALL = 1_000;
/** Nobody reads more at once, and to find the line of each takes longer the more there are. */
const MAX_PROBLEMS = 100;
const TOO_DEEP = 'nested too deeply';

export interface Problem {
  readonly path: readonly (string | number)[];
  readonly message: string;
  /** The offending key, where the problem is a key rather than its value. */
  readonly key?: string;
}

export interface YamlFile<T> {
  readonly data: T;
  /** Refuses the file for problems that the schema does not see. @throws InvalidConfiguration */
  readonly refuse: (problems: readonly Problem[]) => never;
}

/**
 * @param fileName named in every problem.
 * @throws InvalidConfiguration with every problem found, up to a hundred.
 */
export function parseYamlFile<Schema extends z.ZodType>(
  text: string,
  fileName: string,
  schema: Schema,
): YamlFile<z.output<Schema>> {
  const lines = new LineCounter();
  const document = documentOf(text, lines, fileName);
  const errors = document.errors.length > 0 ? document.errors : badKeys(document, lines);
  if (errors.length > 0) {
    throw new InvalidConfiguration(
      errors.slice(0, MAX_PROBLEMS).map(({ pos, message }) => {
        const what = message.startsWith('Maximum call stack') ? TOO_DEEP : message;
        return `${fileName}:${lines.linePos(pos[0]).line}: ${what}`;
      }),
    );
  }
  const refuse = (problems: readonly Problem[]): never => {
    const placed = problems.map((problem) => ({ ...problem, line: lineOf(document, lines, problem) }));
    placed.sort((a, b) => a.line - b.line);
    throw new InvalidConfiguration(
      placed.map(({ line, path, message }) => `${fileName}:${line}: ${path.join('.') || '(file)'}: ${message}`),
    );
  };
  const parsed = schema.safeParse(valueOf(document, lines, fileName) ?? {});
  if (parsed.success) return { data: parsed.data, refuse };
  return refuse(
    parsed.error.issues.slice(0, MAX_PROBLEMS).map((issue) => ({
      path: issue.path.filter((step) => typeof step !== 'symbol'),
      message: messageOf(issue),
      ...(issue.code === 'unrecognized_keys' ? { key: issue.keys[0]! } : {}),
    })),
  );
}

/** The reader calls itself for each level. It catches in one of its parts that it cannot go on. @throws InvalidConfiguration */
function documentOf(text: string, lines: LineCounter, fileName: string): Document {
  try {
    return parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: false, logLevel: 'error' });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new InvalidConfiguration([`${fileName}:${lines.lineStarts.length}: ${TOO_DEEP}`]);
  }
}

/**
 * Keys that are lists or maps, which take twice as long with each level to become text; and keys that are there twice. The reader's own
 * way compares each key of a map with all others: ten seconds for a file of 64 KiB.
 */
function badKeys(
  document: Document,
  lines: LineCounter,
): { readonly pos: readonly [number]; readonly message: string }[] {
  const found: { pos: [number]; message: string }[] = [];
  visit(document, {
    Map: (_key, { items }) => {
      const seen = new Map<unknown, number>();
      for (const { key } of items) {
        const pos: [number] = [isNode(key) ? (key.range?.[0] ?? 0) : 0];
        if (isCollection(key)) found.push({ pos, message: 'a key is a text, no list and no map' });
        if (!isScalar(key)) continue;
        const before = seen.get(key.value);
        const { line } = lines.linePos(pos[0]);
        if (before === undefined) seen.set(key.value, line);
        else {
          const name = JSON.stringify(String(key.value)).slice(0, 100);
          found.push({ pos, message: `key ${name} is there twice: first in line ${before}` });
        }
      }
    },
  });
  return found;
}

/** @throws InvalidConfiguration where an alias has no anchor, or aliases stand for too much. */
function valueOf(document: Document, lines: LineCounter, fileName: string): unknown {
  let offset = 0;
  const anchors = new Set<string>();
  let aliases = 0;
  try {
    visit(document, {
      Value: (_key, node) => {
        if (node.anchor !== undefined) anchors.add(node.anchor);
      },
      Alias: (_key, alias) => {
        offset = alias.range?.[0] ?? 0;
        aliases += 1;
        if (aliases > MAX_ALIASES_IN_ALL) throw new ReferenceError(`more than ${MAX_ALIASES_IN_ALL} aliases`);
        if (!anchors.has(alias.source)) {
          throw new ReferenceError(`there is no anchor "${alias.source}" before this alias`);
        }
      },
    });
    offset = 0;
    return document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (error) {
    if (!(error instanceof ReferenceError)) throw error;
    throw new InvalidConfiguration([`${fileName}:${lines.linePos(offset).line}: ${error.message}`]);
  }
}

/** A bad map key carries its rule in a nested issue. */
function messageOf(issue: z.core.$ZodIssue): string {
  return issue.code === 'invalid_key' ? issue.issues.map((nested) => nested.message).join('; ') : issue.message;
}

/** Line of the node at `problem.path`, or of its nearest parent that is in the file. */
function lineOf(document: Document, lines: LineCounter, problem: Problem): number {
  const offsetOf = (node: unknown): number | undefined => (isNode(node) ? node.range?.[0] : undefined);
  let node: unknown = document.contents;
  let offset = offsetOf(node) ?? 0;
  const steps = problem.key === undefined ? problem.path : [...problem.path, problem.key];
  for (const step of steps) {
    if (isAlias(node)) node = node.resolve(document);
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(step));
      if (pair === undefined) break;
      offset = offsetOf(pair.key) ?? offset;
      node = pair.value;
    } else if (isSeq(node)) {
      node = node.items[Number(step)];
      offset = offsetOf(node) ?? offset;
    } else {
      break;
    }
  }
  return lines.linePos(offset).line;
}
