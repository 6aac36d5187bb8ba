/** What has no probe, end to end: real probes ask a real resolver and a real TLS server, and find their own gateway. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { makeRunDirectory, Mesh, namespacesUnavailable, SwitchedNetwork } from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const PROBES = [{ site: 'a', probe: 'p' }];
// The centre of the switched network has the first address; the resolver, the server and the gateway are there.
const CENTRE = '198.18.0.1';
const CONFIG = `
interval: 2s
sites:
  a: { segments: { lan-gateway: auto } }
tests:
  dns: { protocol: dns, rate: 5/s, timeout: 1s, query: host.example }
  web: { protocol: http, rate: 1/s, timeout: 2s }
  lan-gateway: { protocol: icmp, rate: 5/s }
targets:
  resolver: { host: ${CENTRE}, tests: [dns] }
  nowhere:  { host: ${CENTRE}, query: nowhere.example, tests: [dns] }
  shop:     { url: "https://${CENTRE}:4433/", tests: [web] }
`;
const PATIENCE_MS = 40_000;

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

describe.skipIf(unavailable !== undefined)(`beyond the mesh${why}`, () => {
  let directory: string;
  let mesh: Mesh;
  const servers: ChildProcess[] = [];

  beforeAll(async () => {
    directory = makeRunDirectory();
    const network = new SwitchedNetwork(PROBES);
    mesh = new Mesh({ directory, probes: PROBES, config: CONFIG, network });
    const [key, certificate] = [join(directory, 'key.pem'), join(directory, 'certificate.pem')];
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30'],
        ...['-subj', '/CN=shop.example', '-keyout', key, '-out', certificate],
      ],
      { stdio: 'ignore' },
    );
    const serve = (...command: string[]): void => {
      const [program, ...words] = [...network.centre.enter, ...command];
      servers.push(spawn(program!, words, { stdio: 'ignore' }));
    };
    serve(
      ...['dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null', '--pid-file=', '--user=root', '--no-resolv'],
      ...['--no-hosts', '--bind-interfaces', `--listen-address=${CENTRE}`, '--local=/example/'],
      '--host-record=host.example,192.0.2.1',
    );
    serve('openssl', 's_server', '-quiet', '-www', '-accept', '4433', '-key', key, '-cert', certificate);
    const [program, ...words] = [...network.nodeOf(PROBES[0]!).enter, 'ip', 'route', 'add', 'default', 'via', CENTRE];
    execFileSync(program, words);
    await mesh.start();
  });

  afterAll(async () => {
    for (const server of servers) {
      if (server.exitCode !== null || server.signalCode !== null) continue;
      server.kill('SIGKILL');
      await once(server, 'exit');
    }
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  interface Path {
    readonly key: string;
    readonly srcSite: string;
    readonly dst: string;
    readonly family: string;
    readonly state: string;
    readonly outcomes: Readonly<Record<string, number>>;
    readonly tlsExpiry: string | null;
    readonly tlsFailure: string | null;
    readonly interval: { readonly meanRttSeconds: number | null } | null;
  }
  const pathTo = async (dst: string, isThere: (path: Path) => boolean): Promise<Path> => {
    let found: Path | undefined;
    await mesh.until(
      `the path to ${dst}`,
      async () => {
        const { paths } = JSON.parse((await mesh.get('/api/v1/paths')).body) as { paths: Path[] };
        found = paths.find((path) => path.dst === dst && path.family === 'ipv4' && isThere(path));
        return found !== undefined;
      },
      PATIENCE_MS,
    );
    return found!;
  };

  test('a resolver answers for what there is, and says so of what there is not', async () => {
    const resolver = await pathTo('resolver', ({ outcomes }) => (outcomes['answered'] ?? 0) > 0);
    expect(resolver.state).toBe('ok');
    expect(resolver.outcomes['nxdomain']).toBeUndefined();
    const nowhere = await pathTo('nowhere', ({ outcomes }) => (outcomes['nxdomain'] ?? 0) > 0);
    expect(nowhere.interval!.meanRttSeconds).toBeGreaterThan(0);
    const { body } = await mesh.get('/metrics');
    expect(body).toMatch(
      /wan_site_outcomes_total\{[^}]*dst_site="external"[^}]*protocol="dns"[^}]*outcome="nxdomain"\} [1-9]/,
    );
  });

  test('a certificate that nobody signed fails, and tells when it ends', async () => {
    const shop = await pathTo('shop', ({ tlsFailure }) => tlsFailure !== null);
    expect(shop.tlsFailure).toBe('untrusted');
    expect(shop.outcomes['tls_failed']).toBeGreaterThan(0);
    // Made for 30 days, a moment ago.
    const daysLeft = (Date.parse(shop.tlsExpiry!) - Date.now()) / 86_400_000;
    expect(daysLeft).toBeGreaterThan(29);
    expect(daysLeft).toBeLessThanOrEqual(30);
    const { body } = await mesh.get('/metrics');
    const shown = /wan_path_tls_expiry_timestamp_seconds\{[^}]*dst="shop"[^}]*\} (\S+)/.exec(body);
    expect(Number(shown![1])).toBe(Date.parse(shop.tlsExpiry!) / 1_000);
  });

  test('a probe finds its own gateway and measures it; it is the first segment of its paths', async () => {
    await pathTo('lan-gateway', ({ state }) => state === 'ok');
    const { key } = await pathTo('resolver', () => true);
    const chain = JSON.parse((await mesh.get(`/api/v1/paths/${key}/chain`)).body) as {
      place: string;
      links: { site: string; segment: string; path: { state: string } }[];
    };
    expect(chain.place).toBe('none');
    expect(chain.links.map(({ site, segment, path }) => [site, segment, path.state])).toEqual([
      ['a', 'lan-gateway', 'ok'],
    ]);
  });
});
