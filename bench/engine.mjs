/**
 * The packet engine: its round-trip error against what passes the far side of the sender's link, and what a probe costs,
 * beside fping, ping, blackbox_exporter and smokeping_prober. Two network namespaces joined by a veth pair; nothing leaves
 * the machine. Needs root, Linux 6.6, g++ (for what watches and answers there) and the Debian packages fping, iputils-ping,
 * prometheus-blackbox-exporter and prometheus-smokeping-prober.
 *
 *   node bench/engine.mjs [--full] [--costs | --errors-of TOOL]
 *
 * What the far side's kernel does has processors of its own, as it would on another machine: a system that keeps no account of
 * interrupts charges them to whoever they interrupt. Costs of a rate are of a tool on the first processor alone, the engine's and fping's.
 * Those at fping's burst are taken twice, with a loop of the lowest priority that keeps the far side's processors awake and without.
 *
 * Bars: 3 us of error at p99 (5 us at a fifth of a CPU; 50 us for TCP handshakes); 100,000 ICMP probes/s with none lost; a probe costs at most 0.9 of fping's at its burst and
 * half of fping's at 5,000/s; 1,000 hosts once a second for a fiftieth of smokeping_prober; 150,000 UDP probes/s.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { systemClock } from '@wanscope/shared';
import { printMachine, printTable } from './machine.mjs';

const SELF = fileURLToPath(import.meta.url);
const NET = fileURLToPath(new URL('../probe/dist/net/', import.meta.url));
const NEAR = `wanscope-${process.pid}-near`;
const FAR = `wanscope-${process.pid}-far`;
const FAR_ADDRESS = '198.18.0.2';
/** All of it is local to the far namespace. */
const FAR_NETWORK = '198.18.64.0/20';
const HOSTS = Array.from({ length: 1_000 }, (_, i) => `198.18.${64 + (i >> 8)}.${i & 255}`);
/** smokeping_prober begins with one host after the other. */
const SMOKEPING_START_S = 15;
const SMOKEPING_S = 30;
const full = process.argv.includes('--full');
const errorsOnlyOf = process.argv.includes('--errors-of') ? String(process.argv.at(-1)) : '';
const SECONDS = full ? 60 : 10;
const ROUNDS = full ? 5 : 3;
/** What two tools cost by turns: the pace of a machine changes by a quarter within seconds. */
const TURNS = full ? 11 : 5;
const TURN_S = 3;
const ERROR_PROBES = 600;
const ERROR_SPACING_MS = 5;
/** How long before their deadlines the engine is told of probes. */
const AHEAD_MS = 100;
/** Probes that the engine is told of in one call. */
const MOST_AT_ONCE = 2 ** 15;
const CONNECT_PORT = 8_620;
/** What is compared of a tool that only has buckets. */
const QUANTILES = [0.01, 0.5, 0.99];

/** What programs in the kernel have in common, at a device: instructions, memory that they share with their maker, and errors. */
const BPF = `
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <linux/bpf.h>
#include <linux/net_tstamp.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>
// Not in the headers of every distribution.
constexpr unsigned kTcxIngress = 46, kTcxEgress = 47, kTimeTai = 208, kLoadBytes = 26, kLookup = 1, kTstampAt = 152;
constexpr unsigned kStoreBytes = 9, kReplaceSum = 11, kRedirect = 23;
using Program = std::vector<bpf_insn>;
int bpf(int command, bpf_attr& attr, const char* what) {
  const int result = syscall(SYS_bpf, command, &attr, sizeof attr);
  if (result < 0) { perror(what); exit(1); }
  return result;
}
bpf_insn op(int code, int dst, int src, int off, int imm) { return {(__u8)code, (__u8)dst, (__u8)src, (__s16)off, imm}; }
void append(Program& p, const Program& more) { p.insert(p.end(), more.begin(), more.end()); }
/** Arguments of a call that reads or writes octets of the packet, which is in register 6. */
Program octets(int call, int offset, int at, int count) {
  return {op(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0), op(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, offset),
    op(BPF_ALU64 | BPF_MOV | BPF_X, 3, 10, 0, 0), op(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, at),
    op(BPF_ALU64 | BPF_MOV | BPF_K, 4, 0, 0, count), op(BPF_ALU64 | BPF_MOV | BPF_K, 5, 0, 0, 0),
    op(BPF_JMP | BPF_CALL, 0, 0, 0, call)};
}
/** Goes on for IPv4 without options of a protocol; the header is at -38, what follows it at -18. */
Program ofProtocol(int protocol) {
  Program p{op(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0)};
  append(p, octets(kLoadBytes, 12, -40, 38));
  append(p, {op(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 0, 0),
    op(BPF_LDX | BPF_MEM | BPF_B, 1, 10, -38, 0), op(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 0, 0x45),
    op(BPF_LDX | BPF_MEM | BPF_B, 1, 10, -29, 0), op(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 0, protocol)});
  return p;
}
/** Whatever else it is goes on as it is. */
int loaded(Program p) {
  append(p, {op(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, -1), op(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)});
  const int end = p.size() - 2;
  for (int at = 0; at < end; at++) {
    if ((p[at].code & 7) == BPF_JMP && ((p[at].code & 0xf0) == BPF_JNE || (p[at].code & 0xf0) == BPF_JEQ)) p[at].off = end - at - 1;
  }
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_SCHED_CLS;
  attr.insns = (__u64)p.data(); attr.insn_cnt = p.size(); attr.license = (__u64)"GPL";
  return bpf(BPF_PROG_LOAD, attr, "program");
}
template <typename T> int shared(unsigned count, T*& memory) {
  bpf_attr attr{};
  attr.map_type = BPF_MAP_TYPE_ARRAY; attr.key_size = 4; attr.value_size = sizeof(T); attr.max_entries = count; attr.map_flags = BPF_F_MMAPABLE;
  const int map = bpf(BPF_MAP_CREATE, attr, "map");
  memory = (T*)mmap(nullptr, sizeof(T) * count, PROT_READ, MAP_SHARED, map, 0);
  if (memory == MAP_FAILED) { perror("mmap"); exit(1); }
  return map;
}
void attach(int program, const char* device, bool isIngress) {
  bpf_attr attr{};
  attr.link_create.prog_fd = program;
  attr.link_create.target_ifindex = if_nametoindex(device);
  attr.link_create.attach_type = isIngress ? kTcxIngress : kTcxEgress;
  bpf(BPF_LINK_CREATE, attr, "link");
}`;

/**
 * Answers echoes, or STAMP packets, where they come in, in the kernel: the system's own way has room for the answers of some three
 * milliseconds on their way between its processors and leaves the rest unsent, and a program would need a processor of its own. What
 * it writes as the far side's times says that it took none. Prints how many it has answered for each line that it reads.
 */
const ANSWERER = `${BPF}
int main(int, char** arguments) {
  const bool isUdp = arguments[2][0] == 'u';
  unsigned long long* answered;
  const int map = shared(1, answered);
  Program p = ofProtocol(isUdp ? 17 : 1);
  if (isUdp) {
    append(p, {op(BPF_LDX | BPF_MEM | BPF_H, 1, 10, -16, 0), op(BPF_ALU | BPF_END | BPF_TO_BE, 1, 0, 0, 16), op(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 0, 862)});
    append(p, octets(kLoadBytes, 42, -112, 14));
    append(p, {op(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 0, 0)});
  } else {
    append(p, {op(BPF_LDX | BPF_MEM | BPF_B, 1, 10, -18, 0), op(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 0, 8)});
  }
  append(p, octets(kLoadBytes, 0, -56, 12));
  // Ends of the link, addresses, and ports of UDP change places.
  const auto move = [&p](int from, int to, int count) {
    for (int i = 0; i < count; i += 2) append(p, {op(BPF_LDX | BPF_MEM | BPF_H, 1, 10, from + i, 0), op(BPF_STX | BPF_MEM | BPF_H, 10, 1, to + i, 0)});
  };
  move(-50, -72, 6); move(-56, -66, 6);
  append(p, octets(kStoreBytes, 0, -72, 12));
  move(-22, -80, 4); move(-26, -76, 4);
  append(p, octets(kStoreBytes, 26, -80, 8));
  append(p, {op(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -88, 0)});
  if (isUdp) {
    // No checksum; what the sender wrote goes where its packet is told of, and its time where the answerer's would be.
    move(-16, -88, 2); move(-18, -86, 2); move(-14, -84, 2);
    append(p, octets(kStoreBytes, 34, -88, 8));
    append(p, octets(kStoreBytes, 66, -112, 14));
    append(p, octets(kStoreBytes, 58, -108, 8));
  } else {
    append(p, octets(kStoreBytes, 34, -88, 2));
    append(p, {
      op(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0), op(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 36), op(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 8),
      op(BPF_ALU64 | BPF_MOV | BPF_K, 4, 0, 0, 0), op(BPF_ALU64 | BPF_MOV | BPF_K, 5, 0, 0, 2), op(BPF_JMP | BPF_CALL, 0, 0, 0, kReplaceSum),
    });
  }
  append(p, {
    op(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_VALUE, 0, map), op(0, 0, 0, 0, 0),
    op(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 1), op(BPF_STX | BPF_ATOMIC | BPF_DW, 1, 2, 0, BPF_ADD),
    op(BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, (int)if_nametoindex(arguments[1])), op(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 0),
    op(BPF_JMP | BPF_CALL, 0, 0, 0, kRedirect), op(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  });
  attach(loaded(p), arguments[1], true);
  for (char line[8]; fgets(line, sizeof line, stdin);) { printf("%llu\\n", *answered); fflush(stdout); }
}`;

/**
 * Two programs in the kernel at the far end of the link, which let everything pass: they write down the kernel's time of each echo, or
 * SYN, that comes in, as the link gave it, and of each answer before it goes out, by its number, or port. Nothing is copied, nobody is woken, so they
 * add a tenth of a microsecond to what they look at, where a capture or a stamp for a socket adds one. Prints type, number, ns.
 */
const WATCH = `${BPF}
struct Times { long long in, out; };
int load(int map, bool isIngress, bool isTcp) {
  // An echo or its answer, by its number; or a SYN or its answer, by the port of who began.
  std::vector<bpf_insn> p = ofProtocol(isTcp ? 6 : 1);
  append(p, {
    op(BPF_LDX | BPF_MEM | BPF_B, 1, 10, isTcp ? -5 : -18, 0),
    op(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, isTcp ? 0x17 : 0xff),
    op(BPF_JMP | BPF_JNE | BPF_K, 1, 0, 0, isTcp ? (isIngress ? 0x02 : 0x12) : isIngress ? 8 : 0),
    op(BPF_LDX | BPF_MEM | BPF_H, 1, 10, !isTcp ? -12 : isIngress ? -18 : -16, 0),
    op(BPF_ALU | BPF_END | BPF_TO_BE, 1, 0, 0, 16),
    op(BPF_STX | BPF_MEM | BPF_W, 10, 1, -48, 0),
    op(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map), op(0, 0, 0, 0, 0),
    op(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0),
    op(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -48),
    op(BPF_JMP | BPF_CALL, 0, 0, 0, kLookup),
    op(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 0, 0),
    op(BPF_ALU64 | BPF_MOV | BPF_X, 7, 0, 0, 0),
    // TCP keeps a time of its own where the link's would be.
    isIngress && !isTcp ? op(BPF_LDX | BPF_MEM | BPF_DW, 0, 6, kTstampAt, 0) : op(BPF_JMP | BPF_CALL, 0, 0, 0, kTimeTai),
    op(BPF_STX | BPF_MEM | BPF_DW, 7, 0, isIngress ? 0 : 8, 0),
  });
  return loaded(p);
}
int main(int, char** arguments) {
  const bool isTcp = arguments[2][0] == 't';
  // The kernel only stamps what comes while a socket asks for it.
  int flags = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
  if (setsockopt(socket(AF_INET, SOCK_DGRAM, 0), SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof flags)) return 1;
  Times* times;
  const int map = shared(1 << 16, times);
  for (bool isIngress : {true, false}) attach(load(map, isIngress, isTcp), arguments[1], isIngress);
  timespec tai, real;
  clock_gettime(CLOCK_REALTIME, &real);
  clock_gettime(CLOCK_TAI, &tai);
  // Whole seconds, of which a machine may know nothing.
  const long long apart = (tai.tv_sec - real.tv_sec) * 1000000000LL + tai.tv_nsec - real.tv_nsec, offset = apart - apart % 1000000000;
  puts("ready"); fflush(stdout);
  char input;
  read(0, &input, 1);
  for (int number = 0; number < 1 << 16; number++) {
    if (times[number].in == 0 || times[number].out == 0) continue;
    printf("8 %d %lld\\n0 %d %lld\\n", number, times[number].in - (isTcp ? offset : 0), number, times[number].out - offset);
  }
}`;

/** @param {string} namespace @param {readonly string[]} command */
const inside = (namespace, command) => ['netns', 'exec', namespace, ...command];
/** @param {readonly number[]} values @param {number} q */
const quantile = (values, q) => [...values].sort((a, b) => a - b)[Math.floor(q * (values.length - 1))] ?? NaN;
const sleep = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));

// --------------------------------------------------------------------------------- what runs in the near namespace

/** @param {string} name @param {number} rows */
async function openEngine(name, rows) {
  const options = { clock: systemClock, cookieKey: new Uint8Array(16), identifier: process.pid & 0xffff };
  if (name === 'kernel') {
    const { KernelEngine } = await import(`${NET}kernel-engine.js`);
    const { loadNative } = await import(`${NET}native.js`);
    return new KernelEngine({ ...options, native: loadNative(), rows, receiveBufferBytes: 2 ** 25 });
  }
  const { RawSocketEngine } = await import(`${NET}raw-socket-engine.js`);
  const watch = { isLate: () => false, stalledAt: () => false };
  return RawSocketEngine.start({ ...options, user: undefined, watch, onEnd: () => undefined });
}

/** Sends `count` echoes and prints what each took. @param {string} name @param {boolean} churn */
async function driveErrors(name, churn) {
  const engine = await openEngine(name, 8_192);
  /** @type {Map<number, number>} */
  const sent = new Map();
  /** @type {[number, number][]} */
  const rtts = [];
  const stream = engine.open(
    {
      protocol: 'icmp',
      id: 1,
      family: 'ipv4',
      destination: FAR_ADDRESS,
      source: undefined,
      interface: undefined,
      dscp: 0,
      sizeBytes: 64,
      timeoutNs: 1e9,
    },
    {
      sent: (/** @type {number} */ seq, /** @type {number} */ ns) => sent.set(seq, ns),
      failed: () => undefined,
      received: (/** @type {{ wireSeq: number, receivedNs: number, contaminated: boolean }} */ a) => {
        if (!a.contaminated) rtts.push([a.wireSeq, a.receivedNs - (sent.get(a.wireSeq) ?? NaN)]);
      },
      unreachable: () => undefined,
    },
  );
  await sleep(200);
  const beganNs = systemClock.monoNs();
  for (let seq = 0; seq < ERROR_PROBES;) {
    if (churn) churnOnce();
    for (; seq < ERROR_PROBES; seq += 1) {
      const dueNs = beganNs + seq * ERROR_SPACING_MS * 1e6;
      if (dueNs > systemClock.monoNs() + engine.leadNs) break;
      stream.send(seq, dueNs);
    }
    await sleep(1);
  }
  await sleep(300);
  engine.drain();
  console.log(JSON.stringify(rtts));
  engine.close();
}

/** Turns of 12 ms and garbage, as a busy program has them. */
function churnOnce() {
  const untilNs = systemClock.monoNs() + 12e6;
  /** @type {object[]} */
  let garbage = [];
  while (systemClock.monoNs() < untilNs) {
    garbage.push({ seq: garbage.length, list: [1, 2, 3] });
    if (garbage.length > 50_000) garbage = [];
  }
}

/** Connects again and again and prints what each handshake took, by local port. @param {boolean} churn */
async function driveConnects(churn) {
  const { handshakeReader, loadNative } = await import(`${NET}native.js`);
  const { warmWay } = await import(`${NET}connect.js`);
  const native = loadNative();
  const readHandshake = handshakeReader(native);
  /** @type {[number, number][]} */
  const rtts = [];
  for (let i = 0; i < ERROR_PROBES; i += 1) {
    warmWay(native, 'ipv4');
    const socket = connect({ host: FAR_ADDRESS, port: CONNECT_PORT });
    if (churn) churnOnce();
    await once(socket, 'connect');
    const handshake = readHandshake(socket);
    if (handshake?.isAnswered && !handshake.retransmitted) rtts.push([socket.localPort ?? 0, handshake.rttNs]);
    socket.destroy();
    await sleep(ERROR_SPACING_MS);
  }
  console.log(JSON.stringify(rtts));
}

/** Has blackbox_exporter ping again and again, and prints the round trips it tells, by their order. */
async function driveBlackbox() {
  const config = join(mkdtempSync(join(tmpdir(), 'wanscope-bench-')), 'blackbox.yml');
  writeFileSync(config, 'modules: { icmp: { prober: icmp, icmp: { preferred_ip_protocol: ip4 } } }');
  const exporter = spawn(
    'prometheus-blackbox-exporter',
    [`--config.file=${config}`, '--web.listen-address=127.0.0.1:9115'],
    { stdio: 'ignore' },
  );
  try {
    await sleep(1_000);
    /** @type {[number, number][]} */
    const rtts = [];
    for (let i = 0; i < ERROR_PROBES; i += 1) {
      const answer = await fetch(`http://127.0.0.1:9115/probe?module=icmp&target=${FAR_ADDRESS}`);
      const seconds = /^probe_icmp_duration_seconds\{phase="rtt"\} (\S+)$/m.exec(await answer.text())?.[1];
      rtts.push([i, Number(seconds) * 1e9]);
      await sleep(ERROR_SPACING_MS);
    }
    console.log(JSON.stringify(rtts));
  } finally {
    exporter.kill();
    rmSync(join(config, '..'), { recursive: true });
  }
}

/** Has smokeping_prober ping, and prints the quantiles of its buckets: the only thing it tells. */
async function driveSmokeping() {
  const prober = spawn(
    'prometheus-smokeping-prober',
    ['--privileged', `--ping.interval=${ERROR_SPACING_MS}ms`, '--web.listen-address=127.0.0.1:9374', FAR_ADDRESS],
    { stdio: 'ignore' },
  );
  try {
    await sleep(1_000 + ERROR_PROBES * ERROR_SPACING_MS);
    const text = await (await fetch('http://127.0.0.1:9374/metrics')).text();
    const buckets = [...text.matchAll(/^smokeping_response_duration_seconds_bucket\{.*le="(\S+)"\} (\S+)$/gm)].map(
      (m) => ({
        le: Number(m[1] === '+Inf' ? Infinity : m[1]),
        count: Number(m[2]),
      }),
    );
    const total = buckets.at(-1)?.count ?? 0;
    const quantiles = QUANTILES.map((q) => {
      const at = buckets.findIndex(({ count }) => count >= q * total);
      const low = buckets[at - 1] ?? { le: 0, count: 0 };
      const high = buckets[at] ?? low;
      return low.le + (high.le - low.le) * ((q * total - low.count) / (high.count - low.count));
    });
    console.log(JSON.stringify(quantiles.map((seconds, i) => [i, seconds * 1e9])));
  } finally {
    prober.kill();
  }
}

/** @typedef {{ sent: number, failed: number, received: number }} Seen */

/**
 * The engine as the product has it: each probe handed over by itself, each row told to its stream.
 * @param {'icmp' | 'udp'} protocol @param {number} hosts @param {Seen} seen
 */
async function productDriver(protocol, hosts, seen) {
  const engine = await openEngine('kernel', 8_192);
  const events = {
    sent: () => (seen.sent += 1),
    failed: () => (seen.failed += 1),
    received: () => (seen.received += 1),
    unreachable: () => undefined,
  };
  const streams = HOSTS.slice(0, hosts).map((destination, i) =>
    engine.open(
      {
        protocol,
        id: i + 1,
        family: 'ipv4',
        destination: protocol === 'udp' ? FAR_ADDRESS : destination,
        port: 862,
        source: undefined,
        interface: undefined,
        dscp: 0,
        sizeBytes: 64,
        timeoutNs: 1e9,
      },
      events,
    ),
  );
  return {
    /**
     * Hands over the probes from `first` to before `end`; false when there is no room for them yet.
     * @type {(first: number, end: number, dueNs: (i: number) => number) => boolean}
     */
    submit: (first, end, dueNs) => {
      for (let i = first; i < end; i += 1) streams[i % hosts].send(Math.floor(i / hosts), dueNs(i));
      return true;
    },
    finish: () => {
      engine.drain();
      return engine.counts();
    },
    waitMs: AHEAD_MS / 2,
  };
}

/**
 * The engine driven directly, above the product's own cap: probes handed over and rows read in batches.
 * @type {typeof productDriver}
 */
async function directDriver(protocol, hosts, seen) {
  const { loadNative, monotonicBaseNs } = await import(`${NET}native.js`);
  const { ROW_FAILED, ROW_NUMBERS, ROW_RECEIVED, ROW_SENT } = await import(`${NET}rows.js`);
  const native = loadNative();
  const rows = new Float64Array(2 ** 17 * ROW_NUMBERS);
  let read = 0;
  const readRows = () => {
    const written = native.takeRows(engine);
    for (; read < written; read += 1) {
      const kind = (rows[(read * ROW_NUMBERS) % rows.length] ?? 0) & 0xf;
      if (kind === ROW_SENT) seen.sent += 1;
      else if (kind === ROW_RECEIVED) seen.received += 1;
      else if (kind === ROW_FAILED) seen.failed += 1;
    }
    native.releaseRows(engine, read);
  };
  const options = {
    baseNs: monotonicBaseNs(() => systemClock.monoNs()),
    identifier: process.pid & 0xffff,
    cookieKey: new Uint8Array(16),
    receiveBufferBytes: 2 ** 25,
    countStamps: false,
    readSockets: false,
    unprivileged: false,
  };
  const engine = native.createEngine(options, rows, readRows);
  native.openIcmp(engine, false);
  for (const [i, host] of HOSTS.slice(0, hosts).entries()) {
    native.openStream(engine, {
      id: i + 1,
      udp: protocol === 'udp',
      v6: false,
      destination: protocol === 'udp' ? FAR_ADDRESS : host,
      source: '',
      device: '',
      domain: undefined,
      port: 862,
      sourcePort: 0,
      checksum: 0,
      dscp: 0,
      traces: false,
      probesMtu: false,
      length: 64,
      timeoutNs: 1e9,
      ssidClass: 0,
      asksCounts: false,
    });
  }
  const triples = new Float64Array(3 * MOST_AT_ONCE);
  return {
    submit: (first, end, dueNs) => {
      let at = 0;
      for (let i = first; i < end; i += 1) {
        triples[at] = 1 + (i % hosts);
        triples[at + 1] = Math.floor(i / hosts);
        triples[at + 2] = dueNs(i);
        at += 3;
      }
      return native.submitBatch(engine, triples, at / 3);
    },
    finish: () => {
      native.drain(engine);
      readRows();
      const counts = native.engineCounts(engine);
      const { kernelKernel, userKernel, userUser } = counts;
      return { ...counts, stamps: { kernelKernel, userKernel, userUser } };
    },
    // Long turns of the event loop would hold up the engine on the same processor, which is to catch up then.
    waitMs: AHEAD_MS / 10,
  };
}

/**
 * Sends at a rate to many hosts and prints what came back and what it cost.
 * @param {'icmp' | 'udp'} protocol @param {number} perSecond @param {number} seconds @param {number} hosts
 */
async function driveRate(protocol, perSecond, seconds, hosts) {
  const seen = { sent: 0, failed: 0, received: 0 };
  const driver = await (perSecond > 5_000 ? directDriver : productDriver)(protocol, hosts, seen);
  await sleep(300);
  const total = perSecond * seconds;
  const before = process.cpuUsage();
  const beganNs = systemClock.monoNs() + 20e6;
  const dueNs = (/** @type {number} */ i) => beganNs + (i / perSecond) * 1e9;
  for (let i = 0; i < total;) {
    const until = ((systemClock.monoNs() + AHEAD_MS * 1e6 - beganNs) / 1e9) * perSecond;
    const end = Math.min(total, Math.ceil(until), i + MOST_AT_ONCE);
    if (end > i && driver.submit(i, end, dueNs)) i = end;
    await sleep(driver.waitMs);
  }
  const tookS = (Math.max(systemClock.monoNs(), dueNs(total)) - beganNs) / 1e9;
  await sleep(1_200);
  const { user, system } = process.cpuUsage(before);
  const { stamps, rowsDropped, receiveDropped } = driver.finish();
  console.log(JSON.stringify({ ...seen, total, tookS, cpuUs: user + system, stamps, rowsDropped, receiveDropped }));
  process.exit(0);
}

const [, , mode, first, second, third, fourth] = process.argv;
if (mode === '--errors') {
  await driveErrors(String(first), second === 'churn');
  process.exit(0);
}
if (mode === '--blackbox' || mode === '--smokeping') {
  await (mode === '--blackbox' ? driveBlackbox() : driveSmokeping());
  process.exit(0);
}
if (mode === '--connects') {
  await driveConnects(first === 'churn');
  process.exit(0);
}
if (mode === '--listen') {
  createServer((socket) => socket.on('error', () => undefined).end()).listen(CONNECT_PORT, FAR_ADDRESS);
  await new Promise(() => undefined);
}
if (mode === '--rate') {
  await driveRate(first === 'udp' ? 'udp' : 'icmp', Number(second), Number(third), Number(fourth));
}

// ------------------------------------------------------------------------------------------------------- the bench

/** A control group that gives its members a fifth of a CPU; undefined where the system has no such groups. */
const QUOTA = (() => {
  const path = `/sys/fs/cgroup/cpu/wanscope-${process.pid}`;
  if (!existsSync('/sys/fs/cgroup/cpu/cpu.cfs_quota_us')) return undefined;
  mkdirSync(path);
  writeFileSync(`${path}/cpu.cfs_quota_us`, '20000');
  return path;
})();

/** @param {readonly string[]} args @param {string} [group] control group @returns {Promise<string>} what it printed */
async function near(args, group) {
  const command = ['ip', ...inside(NEAR, args)];
  const join = group === undefined ? [] : ['sh', '-c', `echo $$ > ${group}/tasks; exec "$@"`, 'sh'];
  const [program = '', ...rest] = [...join, ...command];
  const child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'ignore'] });
  let text = '';
  child.stdout.on('data', (/** @type {Buffer} */ data) => (text += data.toString()));
  await once(child, 'close');
  return text;
}

const BLACKBOX = 'blackbox_exporter';
const SMOKEPING = 'smokeping_prober (quantiles of its buckets)';

/**
 * By tool: (sequence number or port, round trip in ns).
 * @type {Record<string, (churn: boolean, group: string | undefined) => Promise<[number, number][]>>}
 */
const TOOLS = {
  'kernel engine': async (churn, group) =>
    JSON.parse(await near([process.execPath, SELF, '--errors', 'kernel', churn ? 'churn' : 'calm'], group)),
  'raw-socket engine': async (churn, group) =>
    JSON.parse(await near([process.execPath, SELF, '--errors', 'raw-socket', churn ? 'churn' : 'calm'], group)),
  'TCP handshakes, by the kernel': async (churn, group) =>
    JSON.parse(await near([process.execPath, SELF, '--connects', churn ? 'churn' : 'calm'], group)),
  fping: async () => {
    const text = await near(['fping', '-c', String(ERROR_PROBES), '-p', String(ERROR_SPACING_MS), FAR_ADDRESS]);
    return [...text.matchAll(/\[(\d+)\], \d+ bytes, ([\d.]+) ms/g)].map((m) => [Number(m[1]), Number(m[2]) * 1e6]);
  },
  ping: async () => {
    const text = await near(['ping', '-c', String(ERROR_PROBES), '-i', String(ERROR_SPACING_MS / 1e3), FAR_ADDRESS]);
    return [...text.matchAll(/icmp_seq=(\d+) .*time=([\d.]+) ms/g)].map((m) => [Number(m[1]), Number(m[2]) * 1e6]);
  },
  [BLACKBOX]: async () => JSON.parse(await near([process.execPath, SELF, '--blackbox'])),
  [SMOKEPING]: async () => JSON.parse(await near([process.execPath, SELF, '--smokeping'])),
};

/** A program made of its source, once. @param {string} name @param {string} source @returns {string} its path */
function program(name, source) {
  const path = join(directory, name);
  if (existsSync(path)) return path;
  writeFileSync(`${path}.cpp`, source);
  execFileSync('g++', ['-O2', '-w', '-o', path, `${path}.cpp`]);
  return path;
}

/**
 * Errors of one run in us: what the tool says less what passed at the far side.
 * @param {string} tool @param {boolean} churn @param {string | undefined} group
 */
async function errorsOf(tool, churn, group) {
  const isTcp = tool.includes('TCP');
  const command = [program('watch', WATCH), 'far', isTcp ? 'tcp' : 'icmp'];
  const watch = spawn('ip', inside(FAR, command), { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: watch.stdout })[Symbol.asyncIterator]();
  await lines.next();
  const rtts = (await TOOLS[tool]?.(churn, group)) ?? [];
  watch.stdin.end('\n');
  /** @type {Map<number, [number, number]>} */
  const seen = new Map();
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const [type, seq, ns] = line.value.split(' ');
    const pair = seen.get(Number(seq)) ?? [NaN, NaN];
    pair[type === '8' ? 0 : 1] = Number(BigInt(ns ?? 0) % 1_000_000_000_000n);
    seen.set(Number(seq), pair);
  }
  if (tool === SMOKEPING) {
    const truth = [...seen.values()].map(([began, ended]) => ended - began).filter(Number.isFinite);
    return rtts.map(([i, rttNs]) => (rttNs - quantile(truth, QUANTILES[i] ?? NaN)) / 1e3);
  }
  const inOrder = [...seen.values()];
  return rtts.flatMap(([seq, rttNs]) => {
    const pair = tool === BLACKBOX ? inOrder[seq] : seen.get(seq & 0xffff);
    const error = pair === undefined ? NaN : (rttNs - (pair[1] - pair[0])) / 1e3;
    return Number.isFinite(error) ? [error] : [];
  });
}

/** Keeps a tool off the far side's processors. */
const ALONE = ['taskset', '-c', '0'];

/**
 * CPU us of fping by probe, user and system, and how many percent of its probes it calls lost.
 * @param {number} count of each host @param {readonly string[]} options
 */
function fping(count, options) {
  const command = [...ALONE, 'fping', '-q', '-c', String(count), ...options, ...HOSTS];
  const script = `TIMEFORMAT='%U %S'; { time "$@" >&3 2>&3; } 3>&1`;
  const run = spawnSync('ip', inside(NEAR, ['bash', '-c', script, 'bash', ...command]), { encoding: 'utf8' });
  const [user = 0, system = 0] = run.stderr.trim().split(' ').map(Number);
  const received = [...run.stdout.matchAll(/= \d+\/(\d+)\//g)].reduce((sum, [, some]) => sum + Number(some), 0);
  const probes = count * HOSTS.length;
  return { costUs: ((user + system) * 1e6) / probes, lostPercent: 100 * (1 - received / probes) };
}

/**
 * Has all that comes in answered at the far end of the link; `answered` tells how many have been, so far.
 * @param {'icmp' | 'udp'} protocol
 */
async function answerAll(protocol) {
  const command = [program('answerer', ANSWERER), 'far', protocol];
  const answerer = spawn('ip', inside(FAR, command), { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(answerer);
  const lines = createInterface({ input: answerer.stdout })[Symbol.asyncIterator]();
  const answered = async () => {
    answerer.stdin.write('?\n');
    return Number((await lines.next()).value);
  };
  await answered();
  return { answered, end: () => void answerer.kill() };
}

/**
 * Drives the engine; `answered` is how many answers the far side sent meanwhile, so that a probe that it did not answer is told
 * from an answer that got lost with us.
 *
 * @param {'icmp' | 'udp'} protocol @param {() => Promise<number>} ofFar @param {number} perSecond @param {number} hosts
 * @param {readonly string[]} [prefix] @param {number} [seconds]
 */
async function rate(protocol, ofFar, perSecond, hosts, prefix = [], seconds = SECONDS) {
  const before = await ofFar();
  const args = ['--rate', protocol, String(perSecond), String(seconds), String(hosts)];
  const run = JSON.parse(await near([...prefix, process.execPath, SELF, ...args]));
  return { ...run, answered: (await ofFar()) - before };
}

/** CPU us of a process so far. @param {number} pid */
function processCpuUs(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) * 1e4;
}

/** What the kernel has counted in a namespace so far. @param {string} namespace @param {string} table @param {string} name */
function counted(namespace, table, name) {
  const text = execFileSync('ip', inside(namespace, ['cat', '/proc/net/snmp'])).toString();
  const [names = [], values = []] = text
    .split('\n')
    .flatMap((line) => (line.startsWith(`${table}:`) ? [line.split(' ')] : []));
  return Number(values[names.indexOf(name)]);
}

/** Echoes sent and answers received in the near namespace so far. @returns {[number, number]} */
const echoes = () => [counted(NEAR, 'Icmp', 'OutEchos'), counted(NEAR, 'Icmp', 'InEchoReps')];

/**
 * CPU of smokeping_prober once it sends to all, by its process alone: its metrics page does not answer at 1,000 hosts. What
 * the kernel counts as answers reached the machine, not necessarily the program.
 */
async function smokeping() {
  const args = ['--privileged', '--ping.interval=1s', '--web.listen-address=127.0.0.1:9374', ...HOSTS];
  const child = spawn('ip', inside(NEAR, ['prometheus-smokeping-prober', ...args]), { stdio: 'ignore' });
  children.push(child);
  try {
    await sleep(SMOKEPING_START_S * 1_000);
    const cpuBefore = processCpuUs(child.pid ?? 0);
    const [sentBefore, receivedBefore] = echoes();
    await sleep(SMOKEPING_S * 1_000);
    const cpuUs = processCpuUs(child.pid ?? 0) - cpuBefore;
    const [sentAfter, receivedAfter] = echoes();
    return { sent: sentAfter - sentBefore, received: receivedAfter - receivedBefore, cpuUs };
  } finally {
    child.kill();
  }
}

/** @type {Record<string, { churn: boolean, group?: string | undefined }>} */
const CONDITIONS = {
  idle: { churn: false },
  'every CPU busy': { churn: false },
  'own event loop churning': { churn: true },
  'churning, a fifth of a CPU': { churn: true, group: QUOTA },
};
const us = (/** @type {number} */ value) => `${value.toFixed(1)} us`;
const verdict = (/** @type {boolean} */ met) => (met ? 'met' : 'missed');

printMachine();
const directory = mkdtempSync(join(tmpdir(), 'wanscope-bench-'));
/** @type {import('node:child_process').ChildProcess[]} */
const children = [];
/** Keep the far side's processors from resting. @type {import('node:child_process').ChildProcess[]} */
const awake = [];

/** How many packets wait for the far side's processor: it answers when this one lets it, and is to answer all of them. */
const BACKLOG = '/proc/sys/net/core/netdev_max_backlog';
/** @type {string | undefined} as it was */
let backlog;

function cleanUp() {
  for (const child of [...children, ...awake]) child.kill('SIGKILL');
  for (const name of [NEAR, FAR]) {
    // What a helper of this run still has going in there would keep the namespace alive without its name.
    const pids = spawnSync('ip', ['netns', 'pids', name], { encoding: 'utf8' }).stdout.split('\n').filter(Boolean);
    for (const pid of pids) {
      try {
        process.kill(Number(pid), 'SIGKILL');
      } catch {
        // It has just ended.
      }
    }
    spawnSync('ip', ['netns', 'delete', name], { stdio: 'ignore' });
  }
  if (backlog !== undefined) writeFileSync(BACKLOG, backlog);
  rmSync(directory, { recursive: true, force: true });
  if (QUOTA !== undefined) rmdirSync(QUOTA);
}

for (const [signal, number] of /** @type {const} */ ([
  ['SIGINT', 2],
  ['SIGTERM', 15],
])) {
  process.once(signal, () => {
    cleanUp();
    process.exit(128 + number);
  });
}

try {
  for (const name of [NEAR, FAR]) {
    execFileSync('ip', ['netns', 'add', name]);
    execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
  }
  execFileSync('ip', ['-n', NEAR, 'link', 'add', 'near', 'type', 'veth', 'peer', 'name', 'far', 'netns', FAR]);
  execFileSync('ip', ['-n', NEAR, 'address', 'add', '198.18.0.1/24', 'dev', 'near']);
  execFileSync('ip', ['-n', FAR, 'address', 'add', `${FAR_ADDRESS}/24`, 'dev', 'far']);
  execFileSync('ip', ['-n', NEAR, 'link', 'set', 'near', 'up']);
  execFileSync('ip', ['-n', FAR, 'link', 'set', 'far', 'up']);
  execFileSync('ip', ['-n', NEAR, 'route', 'add', FAR_NETWORK, 'via', FAR_ADDRESS]);
  execFileSync('ip', ['-n', FAR, 'route', 'add', 'local', FAR_NETWORK, 'dev', 'lo']);
  await sleep(500);

  const listener = spawn('ip', inside(FAR, [process.execPath, SELF, '--listen']), { stdio: 'ignore' });
  await sleep(500);
  const conditions = process.argv.includes('--costs') ? [] : Object.keys(CONDITIONS);
  console.log(
    `\nRound-trip error against the kernel's times at the far side, us (${ROUNDS} runs of ${ERROR_PROBES} probes, ${ERROR_SPACING_MS} ms apart; medians of the runs)\n`,
  );
  const rows = [];
  for (const condition of conditions) {
    const { churn, group } = CONDITIONS[condition] ?? {};
    if (condition.includes('fifth') && group === undefined) continue;
    if (condition.startsWith('every')) {
      for (let i = 0; i < cpus().length; i += 1) {
        children.push(spawn(process.execPath, ['-e', 'for (;;) Math.sqrt(2)'], { stdio: 'ignore' }));
      }
    }
    for (const tool of Object.keys(TOOLS).filter((name) => name.includes(errorsOnlyOf))) {
      if (churn && !tool.includes(' engine') && !tool.includes('TCP')) continue;
      /** @type {number[][]} */
      const runs = [];
      for (let round = 0; round < ROUNDS; round += 1) runs.push(await errorsOf(tool, churn === true, group));
      const at = (/** @type {number} */ q) =>
        quantile(
          runs.map((run) => quantile(run, q)),
          0.5,
        );
      const samples = runs.reduce((sum, run) => sum + run.length, 0);
      const mostUs = tool === 'kernel engine' ? (group === undefined ? 3 : 5) : tool.includes('TCP') ? 50 : undefined;
      const bar = mostUs === undefined ? '–' : `${mostUs} us: ${verdict(at(0.99) <= mostUs)}`;
      rows.push([condition, tool, samples, at(0.01).toFixed(1), at(0.5).toFixed(1), at(0.99).toFixed(1), bar]);
    }
    for (const child of children.splice(0)) child.kill('SIGKILL');
  }
  listener.kill();
  printTable(['condition', 'tool', 'samples', 'p1', 'p50', 'p99', 'bar at p99'], rows);

  if (errorsOnlyOf !== '') {
    cleanUp();
    process.exit(0);
  }
  console.log('\nProbes a second, and what they cost\n');
  // Without this the far side does its work within the sender's system call, as no other machine would.
  const far = '/sys/class/net/far/queues/rx-0/rps_cpus';
  backlog = readFileSync(BACKLOG, 'utf8');
  writeFileSync(BACKLOG, '50000');
  // The neighbour is known: sessions of a probe see to that before their first sample.
  execFileSync('ip', inside(NEAR, ['ping', '-c', '1', FAR_ADDRESS]));
  execFileSync('ip', inside(FAR, ['sh', '-c', `echo ${(1 << cpus().length) - 2} > ${far}`]));
  const costs = [];
  const cost = (/** @type {{ cpuUs: number, sent: number }} */ run) => run.cpuUs / run.sent;
  const describe = (/** @type {Awaited<ReturnType<typeof rate>>} */ run) => [
    `${Math.round(run.sent / run.tookS)}`,
    run.sent - run.answered,
    run.answered - run.received,
    `${((100 * run.stamps.kernelKernel) / run.received).toFixed(2)} %`,
    us(cost(run)),
  ];
  const unknown = ['–', '–', '–', '–'];
  const ofFping = (/** @type {number} */ own, /** @type {number} */ peer, /** @type {number} */ most) =>
    `${(own / peer).toFixed(2)} of fping (${most}: ${verdict(own <= most * peer)})`;
  const echoer = await answerAll('icmp');
  const fast = await rate('icmp', echoer.answered, 100_000, 1_000, ALONE);
  costs.push(['ICMP 100,000/s', 'kernel engine', ...describe(fast), '']);
  for (const isAwake of [true, false]) {
    // One that rests has to be woken through the hypervisor for each packet by whoever sends it, and answers late.
    for (let cpu = 1; isAwake && cpu < cpus().length; cpu += 1) {
      const loop = ['chrt', '--idle', '0', process.execPath, '-e', 'for (;;) Math.sqrt(2)'];
      awake.push(spawn('taskset', ['-c', String(cpu), ...loop], { stdio: 'ignore' }));
    }
    /** @type {number[]} */
    const own = [];
    /** @type {ReturnType<typeof fping>[]} */
    const peer = [];
    for (let turn = 0; turn < TURNS; turn += 1) {
      own.push(cost(await rate('icmp', echoer.answered, 100_000, 1_000, ALONE, TURN_S)));
      // It numbers its probes in 16 bits and frees them after ten seconds.
      peer.push(fping(60, ['-p', '10', '-i', '0']));
    }
    for (const loop of awake.splice(0)) loop.kill('SIGKILL');
    const ownUs = quantile(own, 0.5);
    const median = (/** @type {'costUs' | 'lostPercent'} */ of) =>
      quantile(
        peer.map((run) => run[of]),
        0.5,
      );
    const load = `${TURNS} turns, far side ${isAwake ? 'kept awake' : 'may rest'}`;
    const most = Math.max(...peer.map(({ lostPercent }) => lostPercent));
    const lost = `${median('lostPercent').toFixed(1)} %, at most ${most.toFixed(0)} %`;
    costs.push([load, 'kernel engine', ...unknown, us(ownUs), ofFping(ownUs, median('costUs'), 0.9)]);
    costs.push([load, 'fping, as fast as it can', '–', '–', lost, '–', us(median('costUs')), '']);
  }
  const slow = await rate('icmp', echoer.answered, 5_000, 1_000, ALONE);
  const slowCount = 5 * SECONDS;
  const fpingSlow = fping(slowCount, ['-p', '200', '-i', '0.2']);
  costs.push(['ICMP 5,000/s', 'kernel engine', ...describe(slow), ofFping(cost(slow), fpingSlow.costUs, 0.5)]);
  costs.push([
    'ICMP 5,000/s',
    'fping',
    '–',
    '–',
    `${fpingSlow.lostPercent.toFixed(1)} %`,
    '–',
    us(fpingSlow.costUs),
    '',
  ]);
  const thousand = await rate('icmp', echoer.answered, 1_000, 1_000);
  const perSecond = (/** @type {typeof fast} */ run) => `${(run.cpuUs / run.tookS / 1e3).toFixed(1)} ms/s`;
  costs.push(['1,000 hosts x 1/s', 'kernel engine', ...describe(thousand).slice(0, 4), perSecond(thousand), '']);
  echoer.end();
  const reflector = await answerAll('udp');
  for (const udpRate of [50_000, 100_000, 150_000]) {
    const run = await rate('udp', reflector.answered, udpRate, 500, [], Math.min(SECONDS, 10));
    costs.push([`UDP ${udpRate.toLocaleString('en')}/s`, 'kernel engine', ...describe(run), '']);
  }
  reflector.end();
  const other = await smokeping();
  costs.push([
    '1,000 hosts x 1/s',
    'smokeping_prober',
    `${Math.round(other.sent / SMOKEPING_S)}`,
    '–',
    '–',
    '–',
    `${(other.cpuUs / SMOKEPING_S / 1e3).toFixed(1)} ms/s`,
    `${(other.cpuUs / SMOKEPING_S / (thousand.cpuUs / thousand.tookS)).toFixed(0)} times the engine`,
  ]);
  printTable(
    ['load', 'tool', 'sent/s', 'not answered', 'false loss', 'both stamps', 'CPU per probe (or second)', 'bar'],
    costs,
  );
} finally {
  cleanUp();
}
