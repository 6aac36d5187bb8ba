/** The first sample of a fresh session, towards a neighbour that takes its time to say where it is. */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';

/** The neighbour answers requests for its link address only after so long; they are repeated ten times a second. */
const SILENT_MS = 250;
const RETRANSMIT_MS = 100;

describe.skipIf(process.getuid?.() !== 0)('the first sample (needs root)', () => {
  const [here, there] = [`wanscope-${process.pid}-warm-a`, `wanscope-${process.pid}-warm-b`] as const;
  const dist = fileURLToPath(new URL('../../dist', import.meta.url));
  const ip = (...args: string[]): void => void execFileSync('ip', args);

  afterEach(() => {
    for (const name of [here, there]) execFileSync('ip', ['netns', 'delete', name], { stdio: 'ignore' });
  });

  it('does not wait for a neighbour: the probe before it did, and counts nowhere', () => {
    for (const name of [here, there]) ip('netns', 'add', name);
    ip('-n', here, 'link', 'add', 'name', 'near0', 'type', 'veth', 'peer', 'name', 'far0', 'netns', there);
    for (const [name, device, address] of [
      [here, 'near0', '198.18.77.1/24'],
      [there, 'far0', '198.18.77.2/24'],
    ] as const) {
      ip('-n', name, 'address', 'add', address, 'dev', device);
      ip('-n', name, 'link', 'set', device, 'up');
    }
    ip('netns', 'exec', here, 'sysctl', '-qw', `net.ipv4.neigh.near0.retrans_time_ms=${RETRANSMIT_MS}`);
    ip('netns', 'exec', here, 'sysctl', '-qw', 'net.ipv4.neigh.near0.mcast_solicit=30');
    execFileSync('ip', ['netns', 'exec', there, 'nft', '-f', '-'], {
      input: 'table arp silent { chain requests { type filter hook input priority 0; drop; }; }',
    });
    const program = `
      import { execFileSync } from 'node:child_process';
      import { systemClock } from '@wanscope/shared';
      import { IntervalClock } from '${dist}/interval.js';
      import { TargetResolver } from '${dist}/net/destination.js';
      import { KernelEngine } from '${dist}/net/kernel-engine.js';
      import { loadNative } from '${dist}/net/native.js';
      import { icmpProber } from '${dist}/probers/icmp.js';
      import { Schedule } from '${dist}/schedule.js';
      import { Session } from '${dist}/session.js';
      import { SendBudget } from '${dist}/usage.js';

      const clock = systemClock;
      const engine = new KernelEngine({ native: loadNative(), clock, cookieKey: new Uint8Array(16), identifier: 1 });
      const sentNs = new Map();
      const roundTripsNs = new Map();
      const watched = {
        ...engine,
        get leadNs() { return engine.leadNs; },
        icmpFamilies: engine.icmpFamilies,
        open: (options, events) => engine.open(options, {
          ...events,
          sent: (seq, atNs, high, low) => {
            // Only now does the neighbour begin to think.
            if (seq === 0) setTimeout(() => execFileSync(
              'ip', ['netns', 'exec', '${there}', 'nft', 'flush', 'ruleset']), ${SILENT_MS});
            sentNs.set(seq, atNs);
            events.sent(seq, atNs, high, low);
          },
          received: (answer) => {
            roundTripsNs.set(answer.wireSeq, answer.receivedNs - sentNs.get(answer.wireSeq));
            events.received(answer);
          },
        }),
      };
      const ignore = () => undefined;
      // Long enough that the test does not cross its end.
      const intervals = new IntervalClock(clock, 300_000);
      const planned = {
        index: 0,
        path: { network: 'n', srcSite: 'a', src: 'p', srcUplink: '', dstSite: 'b', dst: 'q', dstUplink: '',
          dstNetwork: 'n', dstKind: 'external', test: 't', protocol: 'icmp', class: 'BE', family: 'ipv4' },
        test: { name: 't', protocol: 'icmp', class: 'BE', sizeBytes: 56, intervalNs: 200e6, timeoutNs: 10e9, keepAlive: false },
        source: { address: '198.18.77.1', interface: undefined },
        target: { address: '198.18.77.2', host: undefined, url: undefined, port: undefined },
      };
      let bytes = 0;
      const session = new Session(
        planned, 'd', 1, 300_000,
        icmpProber({ engine: watched, resolver: new TargetResolver(() => Promise.reject(new Error('no names')), undefined, { localTargets: true }) }),
        { clock, budget: new SendBudget(clock.monoNs()), intervalAt: () => intervals.current, drain: () => engine.drain(),
          countBytes: (_uplink, count) => (bytes += count), missed: () => false, countContaminated: ignore },
      );
      const schedule = new Schedule(clock);
      schedule.add(session);
      const until = Date.now() + 20_000;
      while (roundTripsNs.size < 4 && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 20));
      schedule.clear();
      const { sent, lost, rtt } = session.close(intervals.current);
      const all = [...roundTripsNs].sort(([a], [b]) => a - b).map(([, ns]) => ns / 1e6);
      console.log(JSON.stringify({ sent, lost, maxMs: rtt.maxNs / 1e6, all, packets: bytes / 84, sends: sentNs.size }));
      process.exit(0);
    `;
    const args = ['netns', 'exec', here, process.execPath, '--input-type=module', '--eval', program];
    const result = JSON.parse(execFileSync('ip', args, { encoding: 'utf8', timeout: 45_000, cwd: dist })) as {
      readonly sent: number;
      readonly lost: number;
      readonly maxMs: number;
      readonly all: readonly number[];
      readonly packets: number;
      readonly sends: number;
    };
    // It waited for the neighbour; those after it, of which the first one counts, did not.
    expect(result.all[0]).toBeGreaterThan(RETRANSMIT_MS);
    expect(Math.max(...result.all.slice(1))).toBeLessThan(RETRANSMIT_MS / 2);
    expect(result.maxMs).toBeLessThan(RETRANSMIT_MS / 2);
    expect(result.lost).toBe(0);
    // An echo of 56 octets is 84 on the wire: every packet is counted in octets, one less in statistics.
    expect(result.packets).toBe(result.sends);
    expect(result.sent).toBe(result.sends - 1);
  });
});
