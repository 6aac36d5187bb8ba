/** Every protocol in a network namespace that this process is not in, and packets that a mark sends another way. */
import { execFileSync, spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NS_PER_MS, systemClock, type PlannedSession, type Protocol } from '@wanscope/shared';
import { plannedOf, waitFor } from '@wanscope/shared/testing';
import { parseAddresses, type LocalAddress } from '../addresses.ts';
import { probeOnce } from '../probers/probe-once.ts';
import type { Prober } from '../probers/prober.ts';
import { createProbers } from '../probers/registry.ts';
import { openHttpReflector } from '../reflectors/http.ts';
import type { Reflector } from '../reflectors/reflector.ts';
import { openStampReflector } from '../reflectors/stamp.ts';
import { openTcpReflector } from '../reflectors/tcp.ts';
import { TargetResolver } from './destination.ts';
import { Domains } from './domains.ts';
import { Egress } from './egress.ts';
import { KernelEngine } from './kernel-engine.ts';
import { handshakeReader, loadNative } from './native.ts';
import { SocketLimit } from './socket-limit.ts';

const silentLog = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const native = loadNative();
const context = { clock: systemClock, native, reflected: () => undefined, dropped: () => undefined };
const isRoot = process.getuid?.() === 0;
const vrf = spawnSync('ip', ['link', 'add', 'name', 'wanscopevrf', 'type', 'vrf', 'table', '99'], { encoding: 'utf8' });
if (vrf.status === 0) execFileSync('ip', ['link', 'delete', 'wanscopevrf']);

/** Namespaces of this run, by the last part of their names. */
const full = (name: string): string => `wanscope-${process.pid}-dom-${name}`;
const made: string[] = [];
function ip(namespace: string, ...commands: readonly string[]): void {
  for (const command of commands) execFileSync('ip', ['-n', full(namespace), ...command.split(' ')]);
}
function addNamespace(name: string): void {
  execFileSync('ip', ['netns', 'add', full(name)]);
  made.push(full(name));
  ip(name, 'link set lo up');
}
/** A veth pair between two namespaces. */
function join2(a: string, deviceA: string, addressA: string, b: string, deviceB: string, addressB: string): void {
  ip(a, `link add name ${deviceA} type veth peer name ${deviceB} netns ${full(b)}`);
  ip(a, `address add ${addressA} dev ${deviceA}`, `link set ${deviceA} up`);
  ip(b, `address add ${addressB} dev ${deviceB}`, `link set ${deviceB} up`);
}

interface Kit {
  readonly domains: Domains;
  readonly engine: KernelEngine;
  readonly probers: ReturnType<typeof createProbers>;
}

function kitOf(text: string, trusted: readonly string[] = []): Kit {
  const parsed = parseAddresses(text);
  if (!('value' in parsed)) throw new Error(parsed.problems.join());
  const domains = new Domains(parsed.value, native, systemClock, silentLog);
  const engine = new KernelEngine({
    native,
    clock: systemClock,
    cookieKey: new Uint8Array(16).fill(7),
    identifier: (process.pid + 2) & 0xffff,
    domains: domains.handles,
  });
  const egress = new Egress(
    (from, to, planned) => native.egressInterface(from, to, planned.source.interface ?? '', domains.of(planned)),
    systemClock,
  );
  const probers = createProbers({
    clock: systemClock,
    engine,
    resolver: new TargetResolver(() => Promise.reject(new Error('no such name')), egress, { localTargets: true }),
    sockets: new SocketLimit(),
    readHandshake: handshakeReader(native),
    warmTcp: native.warmTcp,
    watch: { isLate: () => false },
    trustedCertificates: trusted,
    domains,
    inDomains: { domains, native },
    isRefused: (planned: PlannedSession) => domains.refusalOf(planned) !== undefined,
  });
  return { domains, engine, probers };
}

type Target = Partial<PlannedSession['target']>;

/** One probe of a datagram protocol, judged by the first thing that is told of it. */
function datagramOutcome(
  { engine }: Kit,
  prober: Prober,
  target: Target,
  waitMs: number,
  source: string,
): Promise<string> {
  const planned = plannedOf({
    protocol: prober.protocol,
    test: { timeoutNs: waitMs * NS_PER_MS },
    source: { address: source },
    target,
  });
  return new Promise((resolve) => {
    const end = (outcome: string): void => {
      clearInterval(drain);
      clearTimeout(timer);
      channel.close();
      resolve(outcome);
    };
    const drain = setInterval(() => engine.drain(), 10);
    const timer = setTimeout(() => end('lost'), waitMs);
    const ignore = (): undefined => undefined;
    const channel = prober.open(
      { sessionId: 1, planned, timeoutNs: waitMs * NS_PER_MS },
      {
        ...{
          sent: ignore,
          forgotten: ignore,
          reflected: ignore,
          repeated: ignore,
          seenClass: ignore,
          mayLeaveLate: () => true,
          cost: () => undefined,
          unreachable: ignore,
          phase: ignore,
        },
        ...{ tlsExpiry: ignore, tlsFailure: ignore, wireBytes: ignore },
        reply: () => {
          setImmediate(end, 'answered');
          return 'answered';
        },
        settle: (_seq, outcome) => setImmediate(end, outcome),
        notSent: () => setImmediate(end, 'not_sent'),
      },
    );
    channel.send(0, systemClock.monoNs());
  });
}

async function outcomeOf(
  kit: Kit,
  protocol: Protocol,
  target: Target,
  waitMs: number,
  source: string,
): Promise<string> {
  const prober = kit.probers.get(protocol)!;
  if (protocol === 'icmp' || protocol === 'udp') return datagramOutcome(kit, prober, target, waitMs, source);
  return (await probeOnce(prober, target, waitMs, source)).outcome;
}

const addressOf = (text: string): LocalAddress => {
  const parsed = parseAddresses(text);
  if (!('value' in parsed)) throw new Error(parsed.problems.join());
  return parsed.value[0]!;
};

afterAll(() => {
  for (const name of made) spawnSync('ip', ['netns', 'delete', name]);
});

describe.skipIf(!isRoot)('sessions in a namespace (needs root)', () => {
  const HERE = '198.18.88.1';
  const THERE = '198.18.88.2';
  const directory = mkdtempSync(join(tmpdir(), 'wanscope-domains-'));
  const reflectors: Reflector[] = [];
  const ports: Partial<Record<Protocol, number>> = {};
  let kit: Kit;
  let closeHttps: (() => void) | undefined;
  let httpsPort = 0;
  let resolver: ReturnType<typeof createSocket> | undefined;

  beforeAll(async () => {
    addNamespace('near');
    addNamespace('far');
    join2('near', 'n0', `${HERE}/24`, 'far', 'f0', `${THERE}/24`);
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
        ...['-subj', '/CN=far.example', '-addext', 'subjectAltName=DNS:far.example,IP:198.18.88.2'],
        ...['-keyout', join(directory, 'key.pem'), '-out', join(directory, 'cert.pem')],
      ],
      { stdio: 'ignore' },
    );
    const cert = readFileSync(join(directory, 'cert.pem'), 'utf8');
    kit = kitOf(`default=${HERE}%n0%netns:${full('near')}`, [cert]);
    // The far end is in a namespace of its own too, reached in the same way.
    const far = addressOf(`default=${THERE}%netns:${full('far')}`);
    const domain = new Domains([far], native, systemClock, silentLog).ofAddress(far);
    const listen = { address: THERE, port: 0, domain };
    for (const [protocol, open] of [
      ['udp', openStampReflector],
      ['tcp', openTcpReflector],
      ['http', openHttpReflector],
    ] as const) {
      const reflector = await open(listen, context);
      reflectors.push(reflector);
      ports[protocol] = reflector.port;
    }
    const socketOf = (datagram: boolean): number =>
      native.openSocket({ domain, datagram, v6: false, source: THERE, device: '', port: 0, listens: true });
    const https = createHttpsServer({ key: readFileSync(join(directory, 'key.pem')), cert }, (_request, response) => {
      response.end('here\n');
    });
    await new Promise<void>((resolve) => https.listen({ fd: socketOf(false) }, resolve));
    httpsPort = (https.address() as { port: number }).port;
    closeHttps = () => {
      https.closeAllConnections();
      https.close();
    };
    resolver = createSocket('udp4');
    resolver.on('message', (query, from) => {
      const answer = Buffer.from(query);
      // An answer without records: the name exists, with nothing of this type.
      answer.writeUInt16BE(0x8180, 2);
      resolver!.send(answer, from.port, from.address);
    });
    await new Promise<void>((resolve) => resolver!.bind({ fd: socketOf(true) }, resolve));
    ports.dns = resolver.address().port;
  });

  afterAll(async () => {
    for (const reflector of reflectors) await reflector.close();
    closeHttps?.();
    resolver?.close();
    kit.engine.close();
    rmSync(directory, { recursive: true, force: true });
  });

  it('are not where this process is', () => {
    const own = execFileSync('ip', ['-o', 'address', 'show'], { encoding: 'utf8' });
    expect(own).not.toContain('198.18.88.');
    expect(kit.domains.refused()).toEqual([]);
  });

  it('know which addresses are there, whatever their links do', () => {
    const there = (): readonly string[] => kit.domains.addressesIn(full('near')) ?? [];
    expect(there()).toContain(HERE);
    ip('near', 'address add 198.18.89.1/32 dev n0', 'address add 2001:db8:89::1/128 dev n0 nodad');
    expect(there()).toEqual(expect.arrayContaining([HERE, '198.18.89.1', '2001:db8:89::1', '127.0.0.1', '::1']));
    ip('far', 'link set f0 down');
    expect(there()).toContain('198.18.89.1');
    ip('far', 'link set f0 up');
    ip('near', 'address del 198.18.89.1/32 dev n0', 'address del 2001:db8:89::1/128 dev n0');
    expect(there()).toContain(HERE);
    expect(there()).not.toEqual(expect.arrayContaining(['198.18.89.1']));
    expect(there()).not.toEqual(expect.arrayContaining(['2001:db8:89::1']));
  });

  it.each(['icmp', 'udp', 'tcp', 'http', 'dns'] as const)('are answered over %s', async (protocol) => {
    const question = protocol === 'dns' ? { question: { name: 'far.example', type: 'A' as const } } : {};
    const target = { address: THERE, port: ports[protocol], ...question };
    expect(await outcomeOf(kit, protocol, target, 2_000, HERE)).toBe('answered');
  });

  it('speak TLS, on a connection of their own and on a kept one', async () => {
    const url = `https://${THERE}:${httpsPort}/`;
    const result = await probeOnce(kit.probers.get('http')!, { url }, 3_000, HERE);
    expect(result).toMatchObject({ outcome: 'answered', phases: ['connect', 'tls', 'processing', 'transfer'] });
  });

  it('are refused by the far end, not by this machine', async () => {
    const result = await probeOnce(kit.probers.get('tcp')!, { address: THERE, port: 9 }, 1_000, HERE);
    expect(result.outcome).toBe('refused');
  });

  it('are not sent once the name stands for another namespace', async () => {
    addNamespace('short');
    const text = `default=127.0.0.1%netns:${full('short')}`;
    const short = kitOf(text);
    try {
      expect((await probeOnce(short.probers.get('tcp')!, { address: '127.0.0.1', port: 9 }, 500)).outcome).toBe(
        'refused',
      );
      execFileSync('ip', ['netns', 'delete', full('short')]);
      execFileSync('ip', ['netns', 'add', full('short')]);
      await waitFor('the namespace to be refused', 5_000, () => short.domains.refused().length > 0 || undefined);
      expect(short.domains.refused()).toEqual([{ network: 'default', uplink: '', cause: 'replaced' }]);
      expect((await probeOnce(short.probers.get('tcp')!, { address: '127.0.0.1', port: 9 }, 500)).outcome).toBe(
        'not_sent',
      );
    } finally {
      short.engine.close();
    }
  });
});

describe.skipIf(!isRoot)('a mark (needs root)', () => {
  const HERE = '198.18.90.1';
  const SERVICE = '203.0.113.7';
  let reflector: Reflector | undefined;
  const kits: Kit[] = [];

  beforeAll(async () => {
    // Two uplinks of one host; the service is behind both, and answers behind the second only.
    for (const name of ['host', 'isp-a', 'isp-b']) addNamespace(name);
    join2('host', 'wan-a', `${HERE}/24`, 'isp-a', 'a0', '198.18.90.254/24');
    join2('host', 'wan-b', '198.18.91.1/24', 'isp-b', 'b0', '198.18.91.254/24');
    ip('host', 'route add default via 198.18.90.254', 'route add default via 198.18.91.254 table 100');
    ip('host', 'rule add fwmark 0x10 lookup 100');
    ip('isp-b', `address add ${SERVICE}/32 dev lo`, `route add ${HERE}/32 via 198.18.91.1`);
    const far = addressOf(`default=${SERVICE}%netns:${full('isp-b')}`);
    const domain = new Domains([far], native, systemClock, silentLog).ofAddress(far);
    reflector = await openTcpReflector({ address: SERVICE, port: 8_620, domain }, context);
  });
  afterAll(async () => {
    for (const { engine } of kits) engine.close();
    await reflector?.close();
  });

  const outcome = (place: string, protocol: 'icmp' | 'tcp'): Promise<string> => {
    const kit = kitOf(`default=${HERE}%netns:${full('host')}${place}`);
    kits.push(kit);
    const target = { address: SERVICE, port: protocol === 'tcp' ? 8_620 : undefined };
    return outcomeOf(kit, protocol, target, 700, HERE);
  };

  it.each(['icmp', 'tcp'] as const)('sends %s by the other uplink', async (protocol) => {
    expect(await outcome('%mark:0x10', protocol)).toBe('answered');
  });

  it('is what does it: without it the first uplink is taken, where nobody answers', async () => {
    expect(await outcome('', 'tcp')).not.toBe('answered');
  });

  it('is set by an unprivileged process, whose one thread for it has kept nothing but that', () => {
    const binary = fileURLToPath(new URL('../../native/build/engine.node', import.meta.url));
    const program = `
      import { readdirSync, readFileSync } from 'node:fs';
      import { createRequire } from 'node:module';
      const native = createRequire('${binary}')('${binary}');
      const domain = native.openDomain({ netns: '/run/netns/${full('host')}', vrf: '', mark: 16 });
      process.setgroups([]);
      process.setgid(65534);
      process.setuid(65534);
      native.settleDomain(domain);
      const open = (of) => native.openSocket(
        { domain: of, datagram: true, v6: false, source: '${HERE}', device: '', port: 0, listens: false });
      const kept = readdirSync('/proc/self/task').flatMap((task) => {
        const [, permitted] = /CapPrm:\\s*([0-9a-f]+)/.exec(readFileSync('/proc/self/task/' + task + '/status', 'utf8'));
        return BigInt('0x' + permitted) === 0n ? [] : [BigInt('0x' + permitted).toString(16)];
      });
      console.log(JSON.stringify({ opened: open(domain) >= 0, kept, uid: process.getuid() }));
      process.exit(0);
    `;
    const told = execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' });
    const { opened, kept, uid } = JSON.parse(told) as { opened: boolean; kept: string[]; uid: number };
    expect([opened, uid]).toEqual([true, 65_534]);
    // CAP_NET_ADMIN is bit 12, CAP_NET_RAW bit 13.
    expect(kept).toEqual(['3000']);
  });

  it('is known to the check of the interface', () => {
    const towards = (place: string): string | undefined => {
      const kit = kitOf(`default=${HERE}%netns:${full('host')}${place}`);
      kits.push(kit);
      return native.egressInterface(HERE, SERVICE, '', kit.domains.handles[0]);
    };
    expect(towards('%mark:0x10')).toBe('wan-b');
    expect(towards('')).toBe('wan-a');
  });
});

describe.skipIf(!isRoot)('the interface of a source (needs root)', () => {
  // Two uplinks of one host; the service is behind both, and answers behind the second only. The routing prefers the first.
  const SOURCES = { ipv4: '198.18.94.1', ipv6: '2001:db8:94::1' };
  const SERVICES = { ipv4: '203.0.113.8', ipv6: '2001:db8:ffff::8' };
  const reflectors: Reflector[] = [];
  let kit: Kit;
  let resolver: ReturnType<typeof createSocket> | undefined;

  beforeAll(async () => {
    for (const name of ['pin-host', 'pin-a', 'pin-b']) addNamespace(name);
    join2('pin-host', 'wan-a', '198.18.93.1/24', 'pin-a', 'a0', '198.18.93.254/24');
    join2('pin-host', 'wan-b', `${SOURCES.ipv4}/24`, 'pin-b', 'b0', '198.18.94.254/24');
    ip('pin-host', 'address add 2001:db8:93::1/64 dev wan-a nodad', `address add ${SOURCES.ipv6}/64 dev wan-b nodad`);
    ip('pin-a', 'address add 2001:db8:93::fe/64 dev a0 nodad');
    ip('pin-b', 'address add 2001:db8:94::fe/64 dev b0 nodad');
    for (const name of ['pin-a', 'pin-b']) {
      ip(name, `address add ${SERVICES.ipv4}/32 dev lo`, `address add ${SERVICES.ipv6}/128 dev lo nodad`);
    }
    ip('pin-host', 'route add default via 198.18.93.254', 'route add default via 198.18.94.254 metric 100');
    ip('pin-host', `route add ${SERVICES.ipv6}/128 via 2001:db8:93::fe`, 'route add default via 2001:db8:94::fe');
    ip('pin-host', 'link add name idle type veth peer name other', 'link set other up', 'link set idle up');
    const place = `%netns:${full('pin-host')}`;
    kit = kitOf(`default=${SOURCES.ipv4}%wan-b${place},default=${SOURCES.ipv6}%wan-b${place}`);
    for (const service of [SERVICES.ipv4, `[${SERVICES.ipv6}]`]) {
      const far = addressOf(`default=${service}%netns:${full('pin-b')}`);
      const domain = new Domains([far], native, systemClock, silentLog).ofAddress(far);
      reflectors.push(await openTcpReflector({ address: far.bound, port: 8_620, domain }, context));
      reflectors.push(await openHttpReflector({ address: far.bound, port: 8_621, domain }, context));
      if (far.family === 'ipv6') continue;
      resolver = createSocket('udp4');
      resolver.on('message', (query, from) => {
        const answer = Buffer.from(query);
        answer.writeUInt16BE(0x8180, 2);
        resolver!.send(answer, from.port, from.address);
      });
      const fd = native.openSocket({
        ...{ domain, datagram: true, v6: false, source: far.bound, device: '', port: 53, listens: true },
      });
      await new Promise<void>((resolve) => resolver!.bind({ fd }, resolve));
    }
  });
  afterAll(async () => {
    kit.engine.close();
    resolver?.close();
    for (const reflector of reflectors) await reflector.close();
  });

  const outcome = async (
    protocol: 'tcp' | 'http' | 'dns',
    family: 'ipv4' | 'ipv6',
    device: string | undefined,
  ): Promise<string> => {
    const port = { tcp: 8_620, http: 8_621, dns: 53 }[protocol];
    const question = protocol === 'dns' ? { question: { name: 'far.example', type: 'A' as const } } : {};
    const target = { address: SERVICES[family], port, ...question };
    return (await probeOnce(kit.probers.get(protocol)!, target, 700, SOURCES[family], device)).outcome;
  };

  it.each([
    ['tcp', 'ipv4'],
    ['http', 'ipv4'],
    ['dns', 'ipv4'],
    ['tcp', 'ipv6'],
    ['http', 'ipv6'],
  ] as const)('is the one by which %s leaves over %s, whatever the routing prefers', async (protocol, family) => {
    expect(await outcome(protocol, family, 'wan-b')).toBe('answered');
    // The same addresses, unbound: nobody answers there.
    expect(await outcome(protocol, family, undefined)).not.toBe('answered');
  });

  it('without any way by it sends nothing', async () => {
    expect(await outcome('tcp', 'ipv4', 'idle')).toBe('misrouted');
    expect(await outcome('dns', 'ipv4', 'idle')).toBe('misrouted');
    expect(await outcome('http', 'ipv6', 'idle')).toBe('misrouted');
  });

  it('that is not there is an error of this machine, not loss', async () => {
    for (const protocol of ['tcp', 'http', 'dns'] as const) {
      expect(await outcome(protocol, 'ipv4', 'gone0')).toBe('not_sent');
    }
  });

  it.each(['ipv4', 'ipv6'] as const)('is what the routing of %s is asked for', (family) => {
    const towards = (destination: string, device: string): string | undefined =>
      native.egressInterface(SOURCES[family], destination, device, kit.domains.handles[0]);
    expect(['', 'wan-a', 'wan-b', 'idle'].map((device) => towards(SERVICES[family], device))).toEqual([
      'wan-a',
      'wan-a',
      'wan-b',
      'wan-a',
    ]);
    const ownOther = family === 'ipv4' ? '198.18.93.1' : '2001:db8:93::1';
    expect(towards(ownOther, 'wan-a')).not.toBe('wan-a');
  });
});

const vrfUnavailable = !isRoot
  ? 'needs root'
  : vrf.status === 0
    ? undefined
    : `not in this kernel: ${vrf.stderr.trim()}`;
describe.skipIf(vrfUnavailable !== undefined)(
  `a VRF${vrfUnavailable === undefined ? '' : ` (${vrfUnavailable})`}`,
  () => {
    it('is where its sessions are, beside the same address outside', async () => {
      for (const name of ['router', 'red-far']) addNamespace(name);
      ip('router', 'link add name red type vrf table 100', 'link set red up');
      join2('router', 'r0', '198.18.92.1/24', 'red-far', 'r1', '198.18.92.2/24');
      ip('router', 'link set r0 master red');
      const far = addressOf(`default=198.18.92.2%netns:${full('red-far')}`);
      const domain = new Domains([far], native, systemClock, silentLog).ofAddress(far);
      const reflector = await openTcpReflector({ address: '198.18.92.2', port: 8_620, domain }, context);
      const inside = kitOf(`default=198.18.92.1%netns:${full('router')}%vrf:red`);
      const outside = kitOf(`default=198.18.92.1%netns:${full('router')}`);
      try {
        const target = { address: '198.18.92.2', port: 8_620 };
        expect((await probeOnce(inside.probers.get('tcp')!, target, 1_000, '198.18.92.1')).outcome).toBe('answered');
        expect((await probeOnce(outside.probers.get('tcp')!, target, 1_000, '198.18.92.1')).outcome).not.toBe(
          'answered',
        );
      } finally {
        for (const { engine } of [inside, outside]) engine.close();
        await reflector.close();
      }
    });
  },
);
