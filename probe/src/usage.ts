/** What this probe sends: counted by purpose and uplink, and kept under the compiled-in cap whatever happens. */
import { NS_PER_S, SEND_CAP, type Family, type Usage, type UsagePurpose } from '@wanscope/shared';

/** Octets of the IP header without options. */
export const IP_HEADER_BYTES: Readonly<Record<Family, number>> = { ipv4: 20, ipv6: 40 };
export const UDP_HEADER_BYTES = 8;
/** TCP header with the timestamp option, as Linux sends it. */
const TCP_HEADER_BYTES = 32;
export const TCP_SYN_HEADER_BYTES = 40;
const TCP_SEGMENT_BYTES = 1_440;

/**
 * Octets that the side which opens a TCP connection sends for `payloadBytes` of payload: SYN, data, one
 * acknowledgement for every second segment received, and the closing segments. Retransmissions are not seen from here.
 */
export function tcpClientBytes(family: Family, payloadBytes: number, receivedBytes = 0): number {
  const dataSegments = Math.ceil(payloadBytes / TCP_SEGMENT_BYTES);
  const acknowledgements = 2 + Math.ceil(receivedBytes / TCP_SEGMENT_BYTES / 2);
  const header = IP_HEADER_BYTES[family] + TCP_HEADER_BYTES;
  return IP_HEADER_BYTES[family] + TCP_SYN_HEADER_BYTES + (dataSegments + acknowledgements) * header + payloadBytes;
}

/** What one exchange puts on the wire, both ways in octets, and in packets what leaves here. */
export interface ExchangeCost {
  readonly packets: number;
  readonly bytes: number;
}

/** The flights of a TLS handshake that a client sends, and what of both sides' handshakes is in no count of payload. */
const TLS_PACKETS = 4;
export const TLS_HANDSHAKE_BYTES = 8_192;

/**
 * Cost of a TCP exchange, at most about: SYN and the closing segments, data, an acknowledgement for every segment received (Linux
 * acknowledges each at first), and what was received with its headers.
 */
export function exchangeCost(
  family: Family,
  { writtenBytes, readBytes, isSecure }: { writtenBytes: number; readBytes: number; isSecure: boolean },
): ExchangeCost {
  const received = readBytes + (isSecure ? TLS_HANDSHAKE_BYTES : 0);
  const segments = Math.ceil(received / TCP_SEGMENT_BYTES);
  const packets = 4 + Math.ceil(writtenBytes / TCP_SEGMENT_BYTES) + segments + (isSecure ? TLS_PACKETS : 0);
  const header = IP_HEADER_BYTES[family] + TCP_HEADER_BYTES;
  return { packets, bytes: writtenBytes + received + (packets + segments + 3) * header };
}

/** Octets of `payloadBytes` sent over a connection that stays open. */
export function tcpStreamBytes(payloadBytes: number): number {
  const segments = Math.ceil(payloadBytes / TCP_SEGMENT_BYTES);
  return payloadBytes + segments * (IP_HEADER_BYTES.ipv4 + TCP_HEADER_BYTES);
}

/** Octets sent since boot, by purpose and uplink. Bounded by the uplinks that plan and addresses name. */
export class UsageLedger {
  readonly #bytes = new Map<string, { uplink: string; purpose: UsagePurpose; bytes: number }>();

  add(purpose: UsagePurpose, uplink: string, bytes: number): void {
    const key = `${purpose} ${uplink}`;
    let entry = this.#bytes.get(key);
    if (entry === undefined) {
      entry = { uplink, purpose, bytes: 0 };
      this.#bytes.set(key, entry);
    }
    entry.bytes += bytes;
  }

  /** A function that counts for one purpose and uplink without looking them up again. */
  counter(purpose: UsagePurpose, uplink: string): (bytes: number) => void {
    this.add(purpose, uplink, 0);
    const entry = this.#bytes.get(`${purpose} ${uplink}`)!;
    return (bytes) => {
      entry.bytes += bytes;
    };
  }

  list(): Usage[] {
    return [...this.#bytes.values()].map((entry) => ({ ...entry }));
  }
}

/** Share of a second that may be sent at once when many deadlines fall together. */
const BURST_S = 0.25;
/** Share of the rate that is kept for probes that cost more than their plan says, also while the others would take it all. */
const COMMON_SHARE = 1 / 8;

/**
 * One of the two limits of the cap. Half of it is reserved for what costs no more than its plan says, and is filled first: what a
 * target makes a probe cost beyond its plan is taken from, and owed by, the common half only.
 */
class CapBucket {
  readonly #ratePerS: number;
  readonly #half: number;
  #reserved: number;
  #common: number;
  #atNs: number;

  constructor(ratePerS: number, nowNs: number) {
    this.#ratePerS = ratePerS;
    this.#half = (ratePerS * BURST_S) / 2;
    this.#reserved = this.#half;
    this.#common = this.#half;
    this.#atNs = nowNs;
  }

  has(tokens: number, isPlanned: boolean, nowNs: number): boolean {
    this.#refill(nowNs);
    return tokens <= (isPlanned ? this.#reserved + Math.max(0, this.#common) : this.#common);
  }

  take(tokens: number, isPlanned: boolean): void {
    const reserved = isPlanned ? Math.min(tokens, this.#reserved) : 0;
    this.#reserved -= reserved;
    this.#common -= tokens - reserved;
  }

  #refill(nowNs: number): void {
    const tokens = Math.max(0, ((nowNs - this.#atNs) / NS_PER_S) * this.#ratePerS);
    this.#atNs = nowNs;
    const toReserve = Math.min(tokens * (1 - COMMON_SHARE), this.#half - this.#reserved);
    this.#reserved += toReserve;
    this.#common += tokens - toReserve;
    if (this.#common <= this.#half) return;
    this.#reserved = Math.min(this.#half, this.#reserved + this.#common - this.#half);
    this.#common = this.#half;
  }
}

/** The compiled-in cap at run time: no plan and no bug sends more. */
export class SendBudget {
  /** Most that a probe may be charged with: more would never be there at once. */
  readonly mostCharge: ExchangeCost;
  readonly #packets: CapBucket;
  readonly #bits: CapBucket;
  #refused = 0;

  constructor(nowNs: number, cap: { packetsPerSecond: number; bitsPerSecond: number } = SEND_CAP) {
    this.#packets = new CapBucket(cap.packetsPerSecond, nowNs);
    this.#bits = new CapBucket(cap.bitsPerSecond, nowNs);
    this.mostCharge = {
      packets: (cap.packetsPerSecond * BURST_S) / 2,
      bytes: (cap.bitsPerSecond * BURST_S) / 2 / 8,
    };
  }

  /** Sends that were refused since boot. */
  get refused(): number {
    return this.#refused;
  }

  /** @param isPlanned it costs no more than its plan says. What costs more waits until the others have theirs. */
  take(packets: number, bytes: number, nowNs: number, isPlanned = true): boolean {
    if (!this.#bits.has(bytes * 8, isPlanned, nowNs) || !this.#packets.has(packets, isPlanned, nowNs)) {
      this.#refused += 1;
      return false;
    }
    this.#bits.take(bytes * 8, isPlanned);
    this.#packets.take(packets, isPlanned);
    return true;
  }

  /**
   * What was taken turned out to be so much too little, or too much where it is negative. What is owed is paid back before anything
   * else that costs more than planned; at most a whole burst for one probe.
   */
  correct(packets: number, bytes: number, nowNs: number): void {
    const most = this.mostCharge;
    // Refilled up to now: what is given back is no rate.
    this.#packets.has(0, false, nowNs);
    this.#bits.has(0, false, nowNs);
    this.#packets.take(Math.min(packets, 2 * most.packets), false);
    this.#bits.take(Math.min(bytes, 2 * most.bytes) * 8, false);
  }
}
