/**
 * What a probe of a fleet with partitions may publish, and into which stream it goes, at a real broker with the accounts that
 * wan-admin made: the broker asks for permission after it has mapped the subject.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { freePort, Service, until } from '@wanscope/collector/testing';
import { NatsBus } from '@wanscope/probe';
import { decodeEnrolment, partitionOf, subjectOf, type Identity } from '@wanscope/shared';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const PARTITIONS = 3;
const A: Identity = { site: 'a', probe: 'p' };
const B: Identity = { site: 'b', probe: 'p' };
const PROGRAMS = dirname(createRequire(import.meta.url).resolve('@wanscope/collector'));
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

describe('a fleet with partitions', () => {
  const directory = mkdtempSync(join(tmpdir(), 'wanscope-partitions-'));
  const fleet = join(directory, 'fleet');
  const services: Service[] = [];
  let bus: NatsBus;

  const admin = (...args: string[]): string => {
    const run = spawnSync(process.execPath, [join(PROGRAMS, 'admin/main.js'), ...args, '--dir', fleet], {
      encoding: 'utf8',
    });
    expect(run.status, run.stderr).toBe(0);
    return run.stdout.trim();
  };

  beforeAll(async () => {
    mkdirSync(fleet);
    admin('init', '--partitions', String(PARTITIONS), '--resolver-dir', join(directory, 'accounts'));
    const line = admin('probe', 'add', A.site, A.probe);
    const [port, web] = [await freePort(), await freePort()];
    const url = `nats://127.0.0.1:${port}`;
    const store = join(directory, 'store');
    writeFileSync(
      join(directory, 'broker.conf'),
      `listen: "127.0.0.1:${port}"\njetstream { store_dir: "${store}" }\ninclude "fleet/broker/accounts.conf"\n`,
    );
    const config = join(directory, 'wanscope.yaml');
    writeFileSync(config, `sites: { a: {}, b: {} }\ntests: {}\ncluster: { partitions: ${PARTITIONS}, replicas: 1 }\n`);
    services.push(new Service(['nats-server', '--config', join(directory, 'broker.conf')]));
    for (let partition = 0; partition < PARTITIONS; partition += 1) {
      services.push(
        new Service([
          process.execPath,
          join(PROGRAMS, 'main.js'),
          `--config=${config}`,
          `--web.listen-address=127.0.0.1:${partition === 0 ? web : await freePort()}`,
          `--nats.url=${url}`,
          `--identity.dir=${join(fleet, 'collector')}`,
          `--state.dir=${join(directory, `collector-${partition}`)}`,
          `--cluster.partition=${partition}`,
        ]),
      );
    }
    for (const service of services) service.start();
    const ready = `http://127.0.0.1:${web}/-/ready`;
    await until('a collector to be ready', async () => (await fetch(ready)).status === 200, 60_000);
    const enrolment = decodeEnrolment(line);
    bus = new NatsBus({ servers: [url], credentials: { kind: 'enrolment', enrolment }, identity: A, log: silent });
    await until('the probe to be connected', () => Promise.resolve(bus.connected));
  });
  afterAll(async () => {
    await bus.close();
    await Promise.all(services.map((service) => service.stop('SIGKILL')));
    rmSync(directory, { recursive: true, force: true });
  });

  const isTaken = (subject: string): Promise<boolean> =>
    bus.publish(subject, Buffer.from('x')).then(
      () => true,
      () => false,
    );

  test('a probe publishes reports of its own, which go to the partition of its site', async () => {
    await until('the streams to be there', () => isTaken(subjectOf('report', A)), 30_000);
  });

  test('it publishes none of another site, nor into a partition in the name of another', async () => {
    expect(await isTaken(subjectOf('report', B))).toBe(false);
    expect(await isTaken(`wan.v1.part.${partitionOf(B.site, PARTITIONS)}.${B.site}.${B.probe}`)).toBe(false);
    expect(await isTaken(subjectOf('report', A))).toBe(true);
  });

  test('it writes nothing that collectors share', async () => {
    expect(await isTaken('$KV.WAN_CLUSTER.leader')).toBe(false);
  });
});
