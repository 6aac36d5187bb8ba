/**
 * A whole wanscope on one machine: broker, collector and probes as real processes, each in a node of its own where
 * namespaces can be had, on loopback addresses otherwise.
 */
import { chmodSync, existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { formatIdentity, type Identity } from '@wanscope/shared';
import { Patience } from '@wanscope/shared/testing';
import { parseSamples, type Sample } from './exposition-text.ts';
import { askOverSocket, type HttpAnswer, type HttpQuestion } from './http.ts';
import type { BranchNetwork, LabNode } from './network.ts';
import { Service } from './service.ts';

const BROKER_PORT = 4_222;
export const COLLECTOR_PORT = 9_479;
const START_PATIENCE_MS = 20_000;
const POLL_MS = 250;
/** On loopback every probe needs ports of its own, since IPv6 has a single loopback address. */
const LOOPBACK_FIRST_PORT = 20_000;

const program = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** What Node is told so that a probe stays small: docs/router.md. The images say the same. */
export const PROBE_NODE_FLAGS = ['--max-semi-space-size=1', '--single-threaded', '--optimize-for-size'] as const;

/** Argument vector of the probe as it is shipped; as it was compiled, where nobody has bundled it since. */
function shippedProbe(): readonly [string, ...string[]] {
  const [bundle, compiled] = [program('probe/bundle/main.js'), program('probe/dist/.tsbuildinfo')];
  const isFresh = existsSync(bundle) && existsSync(compiled) && statSync(bundle).mtimeMs >= statSync(compiled).mtimeMs;
  return [process.execPath, ...PROBE_NODE_FLAGS, isFresh ? bundle : program('probe/dist/main.js')];
}

export interface MeshOptions {
  /** Existing directory for logs, stores and sockets. */
  readonly directory: string;
  readonly probes: readonly Identity[];
  /** The collector's configuration, YAML. */
  readonly config: string;
  /** Where it runs; the mesh removes it at its end. Undefined: on loopback addresses of this machine. */
  readonly network: BranchNetwork | undefined;
  /** Probes are not told their addresses and find them out. */
  readonly detectAddresses?: boolean;
  /** Argument vector of a probe; undefined: as it is shipped. */
  readonly probeCommand?: readonly [string, ...string[]];
  /** The same for some probes, by identity, written `site/probe`. */
  readonly probeCommands?: ReadonlyMap<string, readonly [string, ...string[]]>;
  /** Argument vector of the collector, without its options; undefined: as it was compiled. */
  readonly collectorCommand?: readonly [string, ...string[]];
  /** Further settings of every probe. */
  readonly probeSettings?: Readonly<Record<string, string>>;
  /** Set where user ids other than 0 cannot be taken (unprivileged user namespaces). */
  readonly keepRoot?: boolean;
}

/** First `nats-server` of the path and of the project's own cache. */
export function natsServerProgram(): string {
  const cached = program('.cache/bin/nats-server');
  return existsSync(cached) ? cached : 'nats-server';
}

export class Mesh {
  readonly broker: Service;
  readonly collector: Service;
  /** By identity, written `site/probe`. */
  readonly probes: ReadonlyMap<string, Service>;
  /** Where broker and collector live; undefined on loopback. */
  readonly centre: LabNode | undefined;
  readonly natsUrl: string;
  readonly collectorSocket: string;
  /** Where metrics have a listener of their own. */
  #metricsSocket: string | undefined;
  readonly configFile: string;
  readonly #directory: string;
  readonly #network: BranchNetwork | undefined;
  readonly #extra: Service[] = [];
  readonly #probeSettings: Readonly<Record<string, string>>;

  constructor(options: MeshOptions) {
    this.#directory = options.directory;
    this.#probeSettings = options.probeSettings ?? {};
    chmodSync(options.directory, 0o711); // probes drop root and must still reach their state directories
    for (const name of ['log', 'broker', 'collector']) mkdirSync(join(options.directory, name), { recursive: true });
    this.collectorSocket = join(options.directory, 'collector.sock');
    this.configFile = join(options.directory, 'wanscope.yaml');
    writeFileSync(this.configFile, options.config);
    this.#network = options.network;
    this.centre = options.network?.centre;
    const brokerAddress = this.centre?.managementIpv4 ?? this.centre?.ipv4 ?? '127.0.0.1';
    const brokerPort = this.centre === undefined ? LOOPBACK_FIRST_PORT - 1 : BROKER_PORT;
    this.natsUrl = `nats://${brokerAddress}:${brokerPort}`;
    this.broker = this.#service('broker', this.centre, [
      natsServerProgram(),
      '--jetstream',
      '--store_dir',
      join(options.directory, 'broker'),
      '--addr',
      brokerAddress,
      '--port',
      String(brokerPort),
    ]);
    // Where everybody is an operator the collector serves page and API on its Unix socket only.
    const isOpenToAll = /^access: \{ '\*': (?:operator|admin) \}$/m.test(options.config);
    const tcpListener = isOpenToAll ? '--metrics.listen-address' : '--web.listen-address';
    const listenOnTcp = this.centre === undefined ? [] : [tcpListener, `:${COLLECTOR_PORT}`];
    if (isOpenToAll && this.centre !== undefined) {
      this.#metricsSocket = join(options.directory, 'metrics.sock');
      listenOnTcp.push(tcpListener, `unix:${this.#metricsSocket}`);
    }
    this.collector = this.#service('collector', this.centre, [
      ...(options.collectorCommand ?? ([process.execPath, program('collector/dist/main.js')] as const)),
      '--config',
      this.configFile,
      '--nats.url',
      this.natsUrl,
      '--state.dir',
      join(options.directory, 'collector'),
      '--web.listen-address',
      `unix:${this.collectorSocket}`,
      ...listenOnTcp,
    ]);
    this.probes = new Map(
      options.probes.map((identity, number) => [formatIdentity(identity), this.#probe(identity, number, options)]),
    );
  }

  /** Starts everything and waits until the collector answers. */
  async start(): Promise<void> {
    this.broker.start();
    this.collector.start();
    for (const probe of this.probes.values()) probe.start();
    await this.until('the collector to answer', async () => (await this.get('/-/healthy')).status === 200);
  }

  /** Ends everything, probes first so that they can say goodbye, and removes the network. */
  async stop(): Promise<void> {
    await Promise.all([...this.probes.values(), ...this.#extra].map((service) => service.stop()));
    await this.collector.stop();
    await this.broker.stop();
    await this.#network?.remove();
  }

  get(path: string): Promise<HttpAnswer> {
    return this.ask(path);
  }

  ask(path: string, question?: HttpQuestion): Promise<HttpAnswer> {
    const isMetrics = path.split('?', 1)[0] === '/metrics';
    return askOverSocket((isMetrics ? this.#metricsSocket : undefined) ?? this.collectorSocket, path, question);
  }

  /** Samples of these families; none while the collector is not ready. */
  async samples(...families: readonly string[]): Promise<Sample[]> {
    const answer = await this.get('/metrics');
    return answer.status === 200 ? parseSamples(answer.body, new Set(families)) : [];
  }

  /** Runs another program beside the collector, ended with the mesh. */
  addService(name: string, command: readonly [string, ...string[]]): Service {
    return this.addServiceAt(this.centre, name, command);
  }

  /** Runs another program in a node, ended with the mesh. */
  addServiceAt(node: LabNode | undefined, name: string, command: readonly [string, ...string[]]): Service {
    const service = this.#service(name, node, command);
    this.#extra.push(service);
    return service;
  }

  /** Makes a TCP port of the centre reachable; returns the path of the Unix socket. */
  relay(name: string, port: number): string {
    const socketPath = join(this.#directory, `${name}.sock`);
    const relay = this.addService(`${name}-relay`, [
      process.execPath,
      program('lab/dist/relay-main.js'),
      socketPath,
      '127.0.0.1',
      String(port),
    ]);
    relay.start();
    return socketPath;
  }

  /**
   * Polls until `condition` holds; a condition that throws does not hold yet.
   *
   * @throws with the log of every service that has ended, when it takes too long.
   */
  async until(what: string, condition: () => Promise<boolean>, patienceMs = START_PATIENCE_MS): Promise<void> {
    const patience = new Patience(patienceMs);
    const attempt = async (): Promise<string | undefined> => {
      try {
        return (await condition()) ? undefined : '';
      } catch (error) {
        return ` (${String(error)})`;
      }
    };
    let problem = await attempt();
    while (problem !== undefined && !patience.isOver) {
      await sleep(POLL_MS);
      problem = await attempt();
    }
    if (problem === undefined) return;
    const ended = [this.broker, this.collector, ...this.probes.values()].filter((service) => !service.running);
    const logs = ended.map((service) => `\n--- ${service.name} has ended:\n${service.logTail(20)}`).join('');
    throw new Error(`waited ${patienceMs} ms for ${what}${problem}${logs}`);
  }

  #service(name: string, node: LabNode | undefined, command: readonly [string, ...string[]], env = {}): Service {
    return new Service({
      name,
      enter: node?.enter ?? [],
      command,
      env,
      logFile: join(this.#directory, 'log', `${name}.log`),
    });
  }

  #probe(
    identity: Identity,
    number: number,
    { keepRoot = false, detectAddresses = false, probeCommand, probeCommands }: MeshOptions,
  ): Service {
    const name = `${identity.site}-${identity.probe}`;
    const node = this.#network?.nodeOf(identity);
    const stateDirectory = join(this.#directory, 'probe', name);
    mkdirSync(stateDirectory, { recursive: true });
    const firstPort = LOOPBACK_FIRST_PORT + number * 3;
    const command = probeCommands?.get(formatIdentity(identity)) ?? probeCommand;
    return this.#service(name, node, command ?? shippedProbe(), {
      WAN_NATS_URL: this.natsUrl,
      WAN_SITE: identity.site,
      WAN_PROBE: identity.probe,
      WAN_STATE_DIR: stateDirectory,
      WAN_ADDRESSES: detectAddresses
        ? ''
        : (node?.wanAddresses ?? `default=127.18.${number >> 8}.${(number & 0xff) + 1},default=[::1]`),
      WAN_REFLECT:
        node === undefined
          ? `udp:${firstPort},tcp:${firstPort + 1},http:${firstPort + 2}`
          : 'udp:862,tcp:8620,http:8621',
      ...(keepRoot ? { WAN_KEEP_ROOT: '1' } : {}),
      ...this.#probeSettings,
    });
  }
}
