/**
 * A real Prometheus for tests, that answers queries and takes remote write: beside a mesh's collector, which it scrapes, with the
 * shipped rules, or alone on loopback.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Patience } from '@wanscope/shared/testing';
import { COLLECTOR_PORT, getOverSocket, Service, type Mesh } from '@wanscope/lab';
import { freePort } from './programs.ts';

export const PROMETHEUS_PORT = 9_090;
const START_PATIENCE_MS = 20_000;
const outOfOrder = (window: string): string => `storage: { tsdb: { out_of_order_time_window: ${window} } }`;

export interface Series {
  readonly metric: Readonly<Record<string, string>>;
  /** Instant vectors: [time, value]. */
  readonly value?: readonly [number, string];
  /** Range vectors: [time, value] of each sample. */
  readonly values?: readonly (readonly [number, string])[];
}

type Get = (path: string) => Promise<{ readonly status: number; readonly body: string }>;

function commandOf(folder: string, config: string, port: number): readonly [string, ...string[]] {
  mkdirSync(folder, { recursive: true });
  const configFile = join(folder, 'prometheus.yml');
  writeFileSync(configFile, config);
  return [
    'prometheus',
    `--config.file=${configFile}`,
    `--storage.tsdb.path=${join(folder, 'data')}`,
    `--web.listen-address=127.0.0.1:${port}`,
    '--web.enable-remote-write-receiver',
    '--log.level=warn',
  ];
}

export class Prometheus {
  readonly #get: Get;
  readonly #service: Service | undefined;
  /** Where remote write goes; of one that runs alone. */
  readonly writeUrl: string | undefined;

  private constructor(get: Get, alone?: { readonly service: Service; readonly writeUrl: string }) {
    this.#get = get;
    this.#service = alone?.service;
    this.writeUrl = alone?.writeUrl;
  }

  /** Beside a mesh's collector; ends with the mesh. */
  static async start(mesh: Mesh, directory: string, rulesGlob: string): Promise<Prometheus> {
    const config = `global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }
${outOfOrder('72h')}
rule_files: ["${rulesGlob}"]
scrape_configs:
  - job_name: wanscope
    honor_labels: true
    static_configs: [{ targets: ["127.0.0.1:${COLLECTOR_PORT}"] }]
`;
    mesh.addService('prometheus', commandOf(join(directory, 'prometheus'), config, PROMETHEUS_PORT)).start();
    const socketPath = mesh.relay('prometheus', PROMETHEUS_PORT);
    const prometheus = new Prometheus((path) => getOverSocket(socketPath, path));
    await mesh.until('Prometheus to be ready', () => prometheus.isReady());
    return prometheus;
  }

  /** Alone, on loopback, scraping nothing. */
  static async startAlone(directory: string, window = '72h'): Promise<Prometheus> {
    const port = await freePort();
    const service = new Service({
      name: 'prometheus',
      enter: [],
      command: commandOf(join(directory, 'prometheus'), outOfOrder(window), port),
      env: {},
      logFile: join(directory, 'prometheus.log'),
    });
    service.start();
    const url = `http://127.0.0.1:${port}`;
    const get: Get = async (path) => {
      const response = await fetch(url + path);
      return { status: response.status, body: await response.text() };
    };
    const prometheus = new Prometheus(get, { service, writeUrl: `${url}/api/v1/write` });
    const patience = new Patience(START_PATIENCE_MS);
    while (!(await prometheus.isReady().catch(() => false))) {
      if (patience.isOver) {
        await service.stop();
        throw new Error(`Prometheus is not ready:\n${service.logTail(20)}`);
      }
      await sleep(100);
    }
    return prometheus;
  }

  /** Ends one that runs alone. */
  async stop(): Promise<void> {
    await this.#service?.stop();
  }

  async isReady(): Promise<boolean> {
    return (await this.#get('/-/ready')).status === 200;
  }

  /**
   * @param atS when, seconds since the epoch; now when absent.
   * @throws when Prometheus refuses the expression.
   */
  async query(expression: string, atS?: number): Promise<Series[]> {
    const time = atS === undefined ? '' : `&time=${atS}`;
    const { status, body } = await this.#get(`/api/v1/query?query=${encodeURIComponent(expression)}${time}`);
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
