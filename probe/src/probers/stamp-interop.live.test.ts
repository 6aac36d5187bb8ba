/** STAMP with an implementation not written here: scapy's layer (contrib/stamp), as sender and as reflector. */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '@wanscope/shared';
import { KernelEngine } from '../net/kernel-engine.ts';
import { loadNative } from '../net/native.ts';
import type { Answer, PacketEngine } from '../net/packet-engine.ts';
import { RawSocketEngine } from '../net/raw-socket-engine.ts';
import { openStampReflector } from '../reflectors/stamp.ts';

/** Debian's own, for which the package is installed. */
const PYTHON = '/usr/bin/python3';
const hasScapy = existsSync('/usr/lib/python3/dist-packages/scapy/contrib/stamp.py');

const COMMON = `
import json, socket, sys, time
from scapy.layers.inet import UDP
from scapy.contrib.stamp import *
SENDER, REFLECTOR = STAMPSessionSenderTestUnauthenticated, STAMPSessionReflectorTestUnauthenticated
def read(layer, octets):
    return layer(octets, _parent=UDP(len=8 + len(octets)))
def say(value):
    print(json.dumps(value), flush=True)
`;

/**
 * Sends three packets to the port that it is given, the last two with extensions, and says what it reads. Its layer
 * names the flags of extensions from the wrong end, so they are numbers here.
 */
const SCAPY_SENDER = `${COMMON}
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.connect(('127.0.0.1', int(sys.argv[1])))
peer.settimeout(10)
requests = [[], [STAMPTestTLV(flags=0x80, type=1, len=8, value=b'paddings')],
            [STAMPTestTLV(flags=0x80, type=4, len=4, value=bytes([46 << 2, 0, 0, 0])),
             STAMPTestTLV(flags=0x80, type=200, len=2, value=b'??')]]
for seq, tlvs in enumerate(requests, 10):
    estimate = ErrorEstimate(S=1, Z=0, scale=3, multiplier=5)
    peer.send(bytes(SENDER(seq=seq, ts=time.time() + 2208988800, err_estimate=estimate, ssid=4711, tlv_objects=tlvs)))
    answer = read(REFLECTOR, peer.recv(2048))
    own, far = answer.err_estimate_sender, answer.err_estimate
    say({'seq': answer.seq, 'ssid': answer.ssid, 'senderSeq': answer.seq_sender, 'mbz': [answer.mbz1, answer.mbz2],
         'senderEstimate': [own.S, own.Z, own.scale, own.multiplier], 'ntp': far.Z == 0, 'multiplier': far.multiplier > 0,
         'ttl': answer.ttl_sender, 'inOrder': answer.ts_sender <= answer.ts_rx + 0.001 and answer.ts_rx <= answer.ts,
         'now': abs(answer.ts - 2208988800 - time.time()) < 5,
         'tlvs': [[int(tlv.flags), tlv.type, tlv.value.hex()] for tlv in answer.tlv_objects]})
`;

/** Counts what it answers, from 100 on; its timestamps are in NTP's format or, on demand, in PTP's. */
const SCAPY_REFLECTOR = `${COMMON}
z = int(sys.argv[1])
def stamp():
    now = time.time_ns()
    return (now // 10**9 + 37) << 32 | now % 10**9 if z else now / 1e9 + 2208988800
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer.bind(('127.0.0.1', 0))
peer.settimeout(30)
say(peer.getsockname()[1])
for count in range(100, 103):
    octets, sender = peer.recvfrom(2048)
    received = stamp()
    request = read(SENDER, octets)
    say({'seq': request.seq, 'ssid': request.ssid, 'mbz': request.mbz, 'z': request.err_estimate.Z,
         'now': abs(request.ts - 2208988800 - time.time()) < 5})
    estimate = ErrorEstimate(S=0, Z=z, scale=10, multiplier=1)
    answer = REFLECTOR(seq=count, err_estimate=estimate, ssid=request.ssid, seq_sender=request.seq,
                       err_estimate_sender=request.err_estimate, ttl_sender=64)
    # After the format that they are in is known.
    answer.ts_rx, answer.ts = received, stamp()
    # The very octets of T1: a float has too few bits for them.
    octets_out = bytearray(bytes(answer)); octets_out[28:36] = octets[4:12]
    peer.sendto(bytes(octets_out) + octets[44:], sender)
`;

describe.skipIf(!hasScapy)('STAMP with scapy (needs python3-scapy)', () => {
  const cleanups: (() => unknown)[] = [];
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });

  /** Lines of JSON that a program there prints. */
  function scapy(program: string, argument: number): AsyncIterator<string> {
    const child: ChildProcess = spawn(PYTHON, ['-c', program, String(argument)], {
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: 40_000,
    });
    cleanups.push(() => child.kill('SIGKILL'));
    return createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  }

  async function next(lines: AsyncIterator<string>): Promise<unknown> {
    const line = await lines.next();
    if (line.done === true) throw new Error('scapy said nothing more');
    return JSON.parse(line.value);
  }

  const REFLECTORS = [
    // The kernel tells the TTL and the class: best effort, and the answer in it, where EF was asked for.
    ['with kernel timestamps', loadNative(), 64, [0, 4, 'b8010000']],
    ['in the event loop', undefined, 0, [0x80, 4, 'b8000000']],
  ] as const;

  it.each(REFLECTORS)('our reflector answers scapy %s', async (_how, native, ttl, classOfService) => {
    const reflector = await openStampReflector(
      { address: '127.0.0.1', port: 0 },
      { clock: systemClock, native, reflected: () => undefined, dropped: () => undefined },
    );
    cleanups.push(() => reflector.close());
    const lines = scapy(SCAPY_SENDER, reflector.port);
    const common = {
      ssid: 4_711,
      mbz: [0, 0],
      senderEstimate: [1, 0, 3, 5],
      ntp: true,
      multiplier: true,
      ttl,
      inOrder: true,
      now: true,
    };
    expect(await next(lines)).toEqual({ ...common, seq: 0, senderSeq: 10, tlvs: [] });
    const padding = [0, 1, Buffer.from('paddings').toString('hex')];
    expect(await next(lines)).toEqual({ ...common, seq: 1, senderSeq: 11, tlvs: [padding] });
    expect(await next(lines)).toEqual({
      ...common,
      seq: 2,
      senderSeq: 12,
      tlvs: [classOfService, [0x80, 200, '3f3f']],
    });
  });

  const ENGINES: Readonly<Record<PacketEngine['name'], () => PacketEngine | Promise<PacketEngine>>> = {
    kernel: () =>
      new KernelEngine({
        native: loadNative(),
        clock: systemClock,
        cookieKey: new Uint8Array(16).fill(3),
        identifier: 0x5754,
      }),
    'raw-socket': async () =>
      RawSocketEngine.start({
        clock: systemClock,
        cookieKey: new Uint8Array(16).fill(3),
        identifier: 0x5755,
        user: undefined,
        watch: { isLate: () => false, stalledAt: () => false },
        onEnd: () => undefined,
      }),
  };

  it.each([
    ['kernel', 'NTP', 0, 44],
    ['kernel', 'NTP', 0, 300],
    ['kernel', 'PTP', 1, 44],
    ['raw-socket', 'NTP', 0, 44],
    ['raw-socket', 'PTP', 1, 44],
  ] as const)('our sender (%s) measures scapy, timestamps of %s', async (engineName, _format, z, sizeBytes) => {
    const lines = scapy(SCAPY_REFLECTOR, z);
    const port = (await next(lines)) as number;
    const engine = await ENGINES[engineName]();
    cleanups.push(() => engine.close());
    const sentNs = new Map<number, number>();
    let answered: ((answer: Answer) => void) | undefined;
    const stream = engine.open(
      {
        protocol: 'udp',
        id: 4_321,
        family: 'ipv4',
        destination: '127.0.0.1',
        port,
        source: '127.0.0.1',
        interface: undefined,
        dscp: 0,
        sizeBytes,
        timeoutNs: 10e9,
      },
      {
        sent: (wireSeq, atNs) => sentNs.set(wireSeq, atNs),
        failed: () => undefined,
        received: (answer) => answered?.({ ...answer }),
        unreachable: () => undefined,
      },
    );
    for (let seq = 0; seq < 3; seq += 1) {
      const answer = await new Promise<Answer>((resolve) => {
        answered = resolve;
        stream.send(seq, systemClock.monoNs());
      });
      // SSIDs are the stream's number modulo 65535, plus 1.
      expect(await next(lines)).toEqual({ seq, ssid: 4_322, mbz: 0, z: 0, now: true });
      expect(answer).toMatchObject({ wireSeq: seq, reflectorSeq: 100 + seq, fromTarget: true, authentic: true });
      const rttNs = answer.receivedNs - sentNs.get(seq)!;
      expect(answer.dwellNs).toBeGreaterThan(0);
      expect(answer.dwellNs).toBeLessThan(rttNs + 1e6);
      // Its clock is ours: it says that the packet arrived between our sending and our receiving it back.
      expect(answer.arrivedNs).toBeGreaterThan(sentNs.get(seq)! - 5e6);
      expect(answer.arrivedNs).toBeLessThan(answer.receivedNs + 5e6);
    }
  });
});
