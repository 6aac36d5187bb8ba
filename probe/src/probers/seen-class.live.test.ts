/** The class that answers arrive in, over loopback of a namespace of its own whose packet filter rewrites requests. */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';

describe.skipIf(process.getuid?.() !== 0)('the class that is seen (needs root)', () => {
  const name = `wanscope-${process.pid}-class`;
  const dist = fileURLToPath(new URL('../../dist', import.meta.url));

  afterEach(() => {
    execFileSync('ip', ['netns', 'delete', name]);
  });

  /** Runs a program there, under these rules of the packet filter, and returns what it prints. */
  function inNamespace(rules: string, program: string): unknown {
    execFileSync('ip', ['netns', 'add', name]);
    execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    execFileSync('ip', ['netns', 'exec', name, 'nft', '-f', '-'], { input: rules });
    const args = ['netns', 'exec', name, process.execPath, '--input-type=module', '--eval', program];
    return JSON.parse(execFileSync('ip', args, { encoding: 'utf8', timeout: 45_000, cwd: dist }));
  }

  /** One probe of each protocol in each family, in class EF, each answered; what was seen, by protocol and family. */
  function seen(rules: string, { stampKey, sizeBytes = 100 }: { stampKey?: string; sizeBytes?: number } = {}): unknown {
    const program = `
      import { FAMILIES, systemClock } from '@wanscope/shared';
      import { IntervalClock } from '${dist}/interval.js';
      import { TargetResolver } from '${dist}/net/destination.js';
      import { KernelEngine } from '${dist}/net/kernel-engine.js';
      import { loadNative } from '${dist}/net/native.js';
      import { icmpProber } from '${dist}/probers/icmp.js';
      import { udpProber } from '${dist}/probers/udp.js';
      import { openStampReflector } from '${dist}/reflectors/stamp.js';
      import { Session } from '${dist}/session.js';
      import { SendBudget } from '${dist}/usage.js';

      const clock = systemClock;
      const native = loadNative();
      const engine = new KernelEngine({ native, clock, cookieKey: new Uint8Array(16), identifier: 1 });
      const resolver = new TargetResolver(() => Promise.reject(new Error('no names')), undefined, { localTargets: true });
      const ignore = () => undefined;
      // Long enough that the test does not cross its end.
      const intervals = new IntervalClock(clock, 300_000);
      const context = {
        clock, budget: new SendBudget(clock.monoNs()), intervalAt: () => intervals.current, countBytes: ignore,
        drain: () => engine.drain(), missed: () => false, countContaminated: ignore,
      };
      const reflector = await openStampReflector(
        { address: '::', port: 8862 },
        { clock, native, reflected: ignore, dropped: ignore, ${stampKey === undefined ? '' : `stampKey: Buffer.from('${stampKey}', 'hex')`} },
      );
      const result = {};
      let id = 0;
      for (const protocol of ['icmp', 'udp']) {
        for (const family of FAMILIES) {
          const address = family === 'ipv4' ? '127.0.0.1' : '::1';
          const planned = {
            index: 0,
            path: { network: 'n', srcSite: 'a', src: 'p', srcUplink: '', dstSite: 'b', dst: 'q', dstUplink: '',
              dstNetwork: 'n', dstKind: 'probe', test: 't', protocol, class: 'EF', family },
            test: { name: 't', protocol, class: 'EF', sizeBytes: ${sizeBytes}, intervalNs: 1e9, timeoutNs: 10e9, keepAlive: false },
            source: { address, interface: undefined },
            target: { address, host: undefined, url: undefined, port: protocol === 'udp' ? 8862 : undefined,
              stampKey: ${JSON.stringify(stampKey)} },
          };
          const prober = (protocol === 'udp' ? udpProber : icmpProber)({ engine, resolver });
          const session = new Session(planned, 'd', ++id, 300_000, prober, context);
          session.run(clock.monoNs(), 0);
          for (let i = 0; i < 500 && session.pending > 0; i += 1) await new Promise((done) => setTimeout(done, 10));
          const { sent, contaminated, lost, seenDscp, farSeenDscp } = session.close(intervals.current);
          session.stop();
          result[protocol + ' ' + family] = { answered: sent + contaminated - lost, seenDscp, farSeenDscp };
        }
      }
      engine.close();
      await reflector.close();
      console.log(JSON.stringify(result));
    `;
    return inNamespace(rules, program);
  }

  /** STAMP's reflector says in which class the probe arrived; nobody says that of an echo. */
  const everywhere = (seenDscp: number, farSeenDscp = seenDscp): unknown => ({
    'icmp ipv4': { answered: 1, seenDscp },
    'icmp ipv6': { answered: 1, seenDscp },
    'udp ipv4': { answered: 1, seenDscp, farSeenDscp },
    'udp ipv6': { answered: 1, seenDscp, farSeenDscp },
  });

  it('is the one that was sent, EF or 46, where nobody rewrites it', () => {
    expect(seen('table inet t {}')).toEqual(everywhere(46));
  });

  it('is the one that a router wrote on the way there', () => {
    const requests = ['ip protocol icmp icmp type echo-request', 'meta nfproto ipv4 udp dport 8862'].map(
      (match) => `${match} ip dscp set cs0`,
    );
    const requests6 = ['icmpv6 type echo-request', 'meta nfproto ipv6 udp dport 8862'].map(
      (match) => `${match} ip6 dscp set cs0`,
    );
    const rules = [...requests, ...requests6].join('; ');
    expect(seen(`table inet t { chain out { type filter hook output priority mangle; ${rules}; }; }`)).toEqual(
      everywhere(0),
    );
  });

  it('is told apart from the one at the far end where only answers are rewritten', () => {
    const answers = [
      'icmp type echo-reply ip dscp set cs0',
      'icmpv6 type echo-reply ip6 dscp set cs0',
      'meta nfproto ipv4 udp sport 8862 ip dscp set cs0',
      'meta nfproto ipv6 udp sport 8862 ip6 dscp set cs0',
    ].join('; ');
    expect(seen(`table inet t { chain out { type filter hook output priority mangle; ${answers}; }; }`)).toEqual(
      everywhere(0, 46),
    );
  });

  const stampKey = '00112233445566778899aabbccddeeff';
  const onlyThere = (dscp: string): string => `
    table inet t { chain out { type filter hook output priority mangle;
      meta nfproto ipv4 udp dport 8862 ip dscp set ${dscp}; meta nfproto ipv6 udp dport 8862 ip6 dscp set ${dscp}; }; }`;

  it.each([140, 144, 160])(
    'is asked for and told with a code where packets are authenticated: %i octets',
    (sizeBytes) => {
      const { 'udp ipv4': v4, 'udp ipv6': v6 } = seen(onlyThere('af11'), { stampKey, sizeBytes }) as Record<
        string,
        unknown
      >;
      // The answer leaves in the class that the request arrived in.
      const afterwards = { answered: 1, seenDscp: 10, farSeenDscp: 10 };
      expect([v4, v6]).toEqual([afterwards, afterwards]);
    },
  );

  it('is not believed without its code; the probe counts all the same', () => {
    // The first octet of the class in the answer, behind UDP's header, STAMP's 112 octets and the extension's head.
    const bitsBefore = (8 + 112 + 4) * 8;
    const forged = `table inet t { chain out { type filter hook output priority mangle;
      udp sport 8862 @th,${bitsBefore},8 set 0x28; }; }`;
    const { 'udp ipv4': v4, 'udp ipv6': v6 } = seen(forged, { stampKey, sizeBytes: 160 }) as Record<string, unknown>;
    const unknown = { answered: 1, seenDscp: 46 };
    expect([v4, v6]).toEqual([unknown, unknown]);
  });

  it.each([139, 141])('is not asked for where there is no room for it: %i octets', (sizeBytes) => {
    const { 'udp ipv4': v4 } = seen(onlyThere('af11'), { stampKey, sizeBytes }) as Record<string, unknown>;
    expect(v4).toEqual({ answered: 1, seenDscp: 10 });
  });

  it('is told to whoever asks by a STAMP extension', () => {
    // Class of service: asked EF, 101110; a router writes AF11, 001010; the answer leaves in AF11, so RP is 1.
    const rules = `table inet t { chain out { type filter hook output priority mangle; udp dport 8862 ip dscp set af11; }; }`;
    const program = `
      import { createSocket } from 'node:dgram';
      import { once } from 'node:events';
      import { systemClock } from '@wanscope/shared';
      import { loadNative } from '${dist}/net/native.js';
      import { openStampReflector } from '${dist}/reflectors/stamp.js';

      const ignore = () => undefined;
      const context = { clock: systemClock, native: loadNative(), reflected: ignore, dropped: ignore };
      const reflector = await openStampReflector({ address: '127.0.0.1', port: 8862 }, context);
      const socket = createSocket('udp4');
      const request = Buffer.concat([Buffer.alloc(44), Buffer.from('80040004b8000000', 'hex')]);
      const answered = once(socket, 'message');
      socket.send(request, 8862, '127.0.0.1');
      const [answer] = await answered;
      socket.close();
      await reflector.close();
      console.log(JSON.stringify(answer.toString('hex', 44)));
    `;
    expect(inNamespace(rules, program)).toBe('00040004b8a10000');
  });
});
