/** Reads the Prometheus text format, as far as the lab asks: samples with their labels. */

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

/** Samples of the families `wanted`, in order. */
export function parseSamples(text: string, wanted: ReadonlySet<string>): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split('\n')) {
    const end = line.search(/[{ ]/);
    if (end <= 0 || !wanted.has(line.slice(0, end))) continue;
    const close = line[end] === '{' ? line.lastIndexOf('}') : end - 1;
    const labels: Record<string, string> = {};
    for (const [, name, value] of line.slice(end, close + 1).matchAll(LABEL)) labels[name!] = value!;
    samples.push({
      name: line.slice(0, end),
      labels,
      value: Number(
        line
          .slice(close + 1)
          .trim()
          .split(' ')[0],
      ),
    });
  }
  return samples;
}
