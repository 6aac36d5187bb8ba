/**
 * Files of settings in YAML, held against a schema. A bad file is refused whole, with every problem named as
 * `file:line: path: what is wrong; what is allowed`.
 */
import { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, parseDocument, visit, type Document } from 'yaml';
import type { z } from 'zod';
import { InvalidConfiguration } from '../errors.ts';

const MAX_ALIASES = 100;

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
 * @throws InvalidConfiguration with every problem found.
 */
export function parseYamlFile<Schema extends z.ZodType>(
  text: string,
  fileName: string,
  schema: Schema,
): YamlFile<z.output<Schema>> {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  if (document.errors.length > 0) {
    throw new InvalidConfiguration(
      document.errors.map((error) => `${fileName}:${lines.linePos(error.pos[0]).line}: ${error.message}`),
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
    parsed.error.issues.map((issue) => ({
      path: issue.path.filter((step) => typeof step !== 'symbol'),
      message: messageOf(issue),
      ...(issue.code === 'unrecognized_keys' ? { key: issue.keys[0]! } : {}),
    })),
  );
}

/** @throws InvalidConfiguration where an alias has no anchor, or aliases stand for too much. */
function valueOf(document: Document, lines: LineCounter, fileName: string): unknown {
  let offset = 0;
  try {
    visit(document, {
      Alias: (_key, alias) => {
        if (alias.resolve(document) !== undefined) return;
        offset = alias.range?.[0] ?? 0;
        throw new ReferenceError(`there is no anchor "${alias.source}" before this alias`);
      },
    });
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
