/** A real Prometheus beside a mesh's collector, for tests: scrapes it, loads the shipped rules, answers queries. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { COLLECTOR_PORT, getOverSocket, type Mesh } from '@wanscope/lab';

const PORT = 9_090;

export interface Series {
  readonly metric: Readonly<Record<string, string>>;
  /** Instant vectors: [time, value]. */
  readonly value?: readonly [number, string];
  /** Range vectors: [time, value] of each sample. */
  readonly values?: readonly (readonly [number, string])[];
}

export class Prometheus {
  readonly #socketPath: string;

  private constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  static async start(mesh: Mesh, directory: string, rulesGlob: string): Promise<Prometheus> {
    const folder = join(directory, 'prometheus');
    mkdirSync(folder, { recursive: true });
    const configFile = join(folder, 'prometheus.yml');
    writeFileSync(
      configFile,
      `global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }
rule_files: ["${rulesGlob}"]
scrape_configs:
  - job_name: wanscope
    honor_labels: true
    static_configs: [{ targets: ["127.0.0.1:${COLLECTOR_PORT}"] }]
`,
    );
    mesh
      .addService('prometheus', [
        'prometheus',
        `--config.file=${configFile}`,
        `--storage.tsdb.path=${join(folder, 'data')}`,
        `--web.listen-address=127.0.0.1:${PORT}`,
        '--log.level=warn',
      ])
      .start();
    const prometheus = new Prometheus(mesh.relay('prometheus', PORT));
    await mesh.until(
      'Prometheus to be ready',
      async () => (await getOverSocket(prometheus.#socketPath, '/-/ready')).status === 200,
    );
    return prometheus;
  }

  /** @throws when Prometheus refuses the expression. */
  async query(expression: string): Promise<Series[]> {
    const path = `/api/v1/query?query=${encodeURIComponent(expression)}`;
    const { status, body } = await getOverSocket(this.#socketPath, path);
    if (status !== 200) throw new Error(`${expression}: ${body}`);
    return (JSON.parse(body) as { data: { result: Series[] } }).data.result;
  }

  /** The value of an expression that yields one series or none (then undefined). */
  async scalar(expression: string): Promise<number | undefined> {
    const [first, second] = await this.query(expression);
    if (second !== undefined) throw new Error(`${expression} yields several series`);
    return first === undefined ? undefined : Number(first.value![1]);
  }
}
