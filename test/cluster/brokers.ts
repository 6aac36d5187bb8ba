/** Real nats-servers that are one cluster, each with its own store: started, stopped, killed, wiped. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort, Service, until } from '@wanscope/collector/testing';
import { reportMapping } from '@wanscope/shared';

export interface BrokerClusterOptions {
  readonly directory: string;
  readonly brokers: number;
  readonly partitions: number;
  /** Lines of each broker's configuration besides: accounts, TLS. They then have the mapping, too. */
  readonly accounts?: string;
}

const READY_MS = 60_000;

interface Broker {
  readonly service: Service;
  readonly store: string;
  readonly port: number;
  readonly httpPort: number;
}

export class BrokerCluster {
  readonly #brokers: readonly Broker[];

  private constructor(brokers: readonly Broker[]) {
    this.#brokers = brokers;
  }

  static async make({ directory, brokers, partitions, accounts }: BrokerClusterOptions): Promise<BrokerCluster> {
    const places = await Promise.all(
      Array.from({ length: brokers }, async () => ({
        port: await freePort(),
        httpPort: await freePort(),
        routePort: await freePort(),
      })),
    );
    const routes = places.map(({ routePort }) => `"nats://127.0.0.1:${routePort}"`).join(', ');
    const { from, to } = reportMapping(partitions);
    const made = places.map(({ port, httpPort, routePort }, at) => {
      const store = join(directory, `broker-${at}`);
      const file = join(directory, `broker-${at}.conf`);
      mkdirSync(store, { recursive: true });
      writeFileSync(
        file,
        `
server_name: broker-${at}
listen: "127.0.0.1:${port}"
http: "127.0.0.1:${httpPort}"
max_payload: 264KB
lame_duck_duration: "30s"
lame_duck_grace_period: "5s"
jetstream { store_dir: "${store}", max_file_store: 8GB, max_memory_store: 64MB }
cluster { name: wan, listen: "127.0.0.1:${routePort}", routes: [${routes}] }
${accounts ?? `mappings: { "${from}": "${to}" }`}
`,
      );
      return { service: new Service(['nats-server', '--config', file]), store, port, httpPort };
    });
    return new BrokerCluster(made);
  }

  get urls(): readonly string[] {
    return this.#brokers.map(({ port }) => `nats://127.0.0.1:${port}`);
  }

  get size(): number {
    return this.#brokers.length;
  }

  async start(): Promise<void> {
    for (const { service } of this.#brokers) service.start();
    for (const at of this.#brokers.keys()) await this.untilHealthy(at);
  }

  startOne(at: number): void {
    this.#at(at).service.start();
  }

  /** Everything that it held is its own again, and it answers for it. */
  async untilHealthy(at: number): Promise<void> {
    const { httpPort } = this.#at(at);
    await until(
      `broker ${at} to be healthy`,
      async () => (await fetch(`http://127.0.0.1:${httpPort}/healthz`)).status === 200,
      READY_MS,
    );
  }

  async stopOne(at: number, signal: NodeJS.Signals): Promise<void> {
    await this.#at(at).service.stop(signal);
  }

  async stop(signal: NodeJS.Signals): Promise<void> {
    await Promise.all(this.#brokers.map(({ service }) => service.stop(signal)));
  }

  /** Of brokers that do not run. */
  wipe(): void {
    for (const { store } of this.#brokers) {
      rmSync(store, { recursive: true, force: true });
      mkdirSync(store, { recursive: true });
    }
  }

  /** What a broker has said, for a failure. */
  logOf(at: number): string {
    return this.#at(at).service.log;
  }

  #at(at: number): Broker {
    const broker = this.#brokers[at];
    if (broker === undefined) throw new Error(`there is no broker ${at}`);
    return broker;
  }
}
