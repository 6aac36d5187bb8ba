/** The text of an exposition as samples to write: the same series as a scrape would give, and markers for those that have ended. */
import { seriesOf, STALE, type WriteSample, type WriteSeries } from './write-request.ts';

export class LiveSamples {
  /** Series of the last reading by name and labels as the text has them. */
  #series = new Map<string, WriteSeries>();
  #labels: Readonly<Record<string, string>> | undefined;

  /**
   * @param extra labels of every series; those of the text win.
   * @param nowMs the time of every sample.
   */
  async read(
    text: AsyncIterable<string>,
    extra: Readonly<Record<string, string>>,
    nowMs: number,
  ): Promise<WriteSample[]> {
    const before = this.#labels === extra ? this.#series : new Map<string, WriteSeries>();
    this.#labels = extra;
    const now = new Map<string, WriteSeries>();
    const samples: WriteSample[] = [];
    for await (const chunk of text) {
      for (const line of chunk.split('\n')) {
        const end = line.lastIndexOf(' ');
        if (end < 0 || line.startsWith('#')) continue;
        const key = line.slice(0, end);
        const series = before.get(key) ?? parse(key, extra);
        now.set(key, series);
        samples.push({ series, timestampMs: nowMs, value: Number(line.slice(end + 1)) });
      }
    }
    for (const [key, series] of before) {
      if (!now.has(key)) samples.push({ series, timestampMs: nowMs, value: STALE });
    }
    this.#series = now;
    return samples;
  }
}

function parse(key: string, extra: Readonly<Record<string, string>>): WriteSeries {
  const brace = key.indexOf('{');
  if (brace < 0) return seriesOf(key, extra);
  const labels: Record<string, string> = { ...extra };
  for (const [, name, value] of key.slice(brace).matchAll(/([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g)) {
    labels[name!] = value!.replace(/\\(.)/g, (_all, escaped: string) => (escaped === 'n' ? '\n' : escaped));
  }
  return seriesOf(key.slice(0, brace), labels);
}
