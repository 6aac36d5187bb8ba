/**
 * A prom-client registry whose families read the collector's state when they are rendered and own no counts.
 *
 * Rendering is a stream of chunks that gives the event loop a turn after each, because a million series in one string
 * would block it for seconds and not fit.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Registry as PromRegistry, type Metric, type MetricObjectWithValues, type MetricValue } from 'prom-client';
import { TextSink, type MetricType } from './text.ts';

/** One metric family as documentation and rendering both know it. */
export interface FamilyDefinition {
  readonly name: string;
  readonly type: MetricType;
  /** Base unit of its values; `1` for counts, states and flags. */
  readonly unit: 'seconds' | 'bytes' | 'ratio' | 'degrees' | 'timestamp' | '1';
  readonly help: string;
  readonly labels: readonly string[];
  /** The standard or definition behind it. */
  readonly source: string;
}

export interface Family extends FamilyDefinition {
  /** Writes samples without a head, pausing (yielding) whenever the sink is full. Nothing written: nothing shown. */
  readonly render: (sink: TextSink, name: string, type: MetricType) => Generator<void>;
  /** Where the type depends on settings. */
  readonly currentType?: () => MetricType;
}

/** What prom-client asks of a metric. */
class FamilyMetric {
  readonly name: string;
  readonly help: string;
  readonly aggregator = 'omit' as const;
  readonly family: Family;

  constructor(family: Family) {
    this.family = family;
    this.name = family.name;
    this.help = family.help;
  }

  get type(): MetricType {
    return this.family.currentType?.() ?? this.family.type;
  }

  /** The samples as prom-client's JSON; for other users of the registry, not for scrapes. */
  get(): Promise<MetricObjectWithValues<MetricValue<string>>> {
    const sink = new TextSink();
    const values: MetricValue<string>[] = [];
    const steps = this.family.render(sink, this.name, this.type);
    for (let step = steps.next(); ; step = steps.next()) {
      for (const line of sink.take().split('\n')) {
        const sample = parseSample(line);
        if (sample !== undefined) values.push(sample);
      }
      if (step.done === true) break;
    }
    const { name, help, aggregator } = this;
    return Promise.resolve({ name, help, aggregator, type: this.type, values } as unknown as MetricObjectWithValues<
      MetricValue<string>
    >);
  }

  reset(): void {
    // Counts belong to the state, not to the metric.
  }

  *chunks(): Generator<string> {
    const sink = new TextSink();
    const type = this.type;
    let headed = false;
    const steps = this.family.render(sink, this.name, type);
    for (let step = steps.next(); ; step = steps.next()) {
      const text = sink.take();
      if (text !== '') {
        if (!headed) sink.head(this.name, type, this.help);
        headed = true;
        yield sink.take() + text;
      }
      if (step.done === true) return;
    }
  }
}

export class StateRegistry extends PromRegistry {
  readonly #families: FamilyMetric[] = [];

  constructor(families: readonly Family[]) {
    super();
    for (const family of families) {
      const metric = new FamilyMetric(family);
      this.#families.push(metric);
      this.registerMetric(metric as unknown as Metric);
    }
  }

  /** The exposition in chunks; the event loop gets a turn after each. */
  async *stream(): AsyncGenerator<string> {
    let pending = '';
    for (const family of this.#families) {
      for (const chunk of family.chunks()) {
        pending += chunk;
        if (pending.length < 64 * 1024) continue;
        yield pending;
        pending = '';
        await nextTurn();
      }
    }
    if (pending !== '') yield pending;
  }

  /** The whole exposition as one string: for small fleets and tests. */
  override async metrics(): Promise<string> {
    let text = '';
    for await (const chunk of this.stream()) text += chunk;
    return text;
  }
}

function parseSample(line: string): MetricValue<string> | undefined {
  const match = /^([^{ ]+)(?:\{(.*)\})? (\S+)$/.exec(line);
  if (match === null) return undefined;
  const labels: Record<string, string> = {};
  for (const [, name, value] of (match[2] ?? '').matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)) {
    labels[name!] = value!.replace(/\\(.)/g, (_all, c: string) => (c === 'n' ? '\n' : c));
  }
  return { value: Number(match[3]), labels, metricName: match[1] } as MetricValue<string>;
}
