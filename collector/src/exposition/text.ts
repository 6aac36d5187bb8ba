/** Pieces of the Prometheus text format (version 0.0.4), written into chunks of bounded size. */
import { CLASSIC_BOUNDS } from '@wanscope/shared';

/** Text is handed over whenever this much has gathered. */
export const CHUNK_CHARACTERS = 64 * 1024;

export type MetricType = 'counter' | 'gauge' | 'summary' | 'histogram';

export class TextSink {
  #text = '';

  get isFull(): boolean {
    return this.#text.length >= CHUNK_CHARACTERS;
  }

  get isEmpty(): boolean {
    return this.#text === '';
  }

  head(name: string, type: MetricType, help: string): void {
    this.#text += `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  }

  /** One sample; `labels` is the inside of the braces, '' for none. */
  sample(name: string, labels: string, value: number): void {
    this.#text += labels === '' ? `${name} ${value}\n` : `${name}{${labels}} ${value}\n`;
  }

  /** A classic histogram with CLASSIC_BOUNDS; `counts` holds one more than there are bounds, from `at`. */
  histogram(name: string, labels: string, counts: Float64Array, at: number, sum: number): void {
    let below = 0;
    for (let i = 0; i < LE.length; i += 1) {
      below += counts[at + i]!;
      this.#text += `${name}_bucket{${labels},le="${LE[i]!}"} ${below}\n`;
    }
    below += counts[at + LE.length]!;
    this.#text += `${name}_bucket{${labels},le="+Inf"} ${below}\n${name}_sum{${labels}} ${sum}\n`;
    this.#text += `${name}_count{${labels}} ${below}\n`;
  }

  summary(name: string, labels: string, count: number, sum: number): void {
    this.#text += `${name}_sum{${labels}} ${sum}\n${name}_count{${labels}} ${count}\n`;
  }

  take(): string {
    const text = this.#text;
    this.#text = '';
    return text;
  }
}

const LE = CLASSIC_BOUNDS.map(String);

/** `a="x",b="y"` with values escaped as the format wants. */
export function labelText(labels: Readonly<Record<string, string | number>>): string {
  return Object.entries(labels)
    .map(([name, value]) => `${name}="${escapeLabel(String(value))}"`)
    .join(',');
}

function escapeLabel(value: string): string {
  return value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n');
}
