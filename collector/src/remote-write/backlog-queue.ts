/**
 * Late reports that wait to be written, in the order in which they came: each with the dictionary that it needs, in segments
 * that can each be read alone. Bounded in octets; the oldest segment goes first, and what was in it is counted. One probe has a share, so
 * that its late reports do not push out what others measured.
 *
 * At least once: what was taken and not yet acknowledged when the process ended is taken again.
 *
 * Segment: records. Record: length of the payload, CRC-32C of it (both 32 bits, little endian), payload. Payload: kind (1 a
 * dictionary, 2 a report), length of site, length of probe, hash of the dictionary (8 octets), when the report was counted
 * (64-bit float), number of its samples (32 bits), site, probe, octets.
 */
import { crc32c, encodeDictionary, formatIdentity, type Dictionary, type Identity } from '@wanscope/shared';
import type { QueuePosition, SegmentStore } from './segment-store.ts';

const FRAME_BYTES = 8;
const DICTIONARY = 1;
const REPORT = 2;
const MAX_SEGMENT_BYTES = 4 * 2 ** 20;
/** Segments that the bound is divided into at least, so that not much goes at once. */
const LEAST_SEGMENTS = 8;
/** A probe may have all the room while no other has something here, and this part of it where there are as many or more. */
const MOST_SHARES = 4;
/** What waits for the disk; more than this goes, counted. */
const MAX_WAITING_BYTES = 64 * 2 ** 20;

export interface LateReport {
  readonly identity: Identity;
  /** Octets of the report as it came. */
  readonly data: Uint8Array;
  readonly dictionary: Dictionary;
  readonly countedAtMs: number;
  /** Samples that it makes. */
  readonly samples: number;
}

/** A report that was taken out, with the octets of its dictionary. */
export interface QueuedReport {
  readonly identity: Identity;
  readonly data: Uint8Array;
  readonly dictionary: Uint8Array;
  readonly countedAtMs: number;
}

export interface QueuedBatch {
  readonly reports: readonly QueuedReport[];
  readonly samples: number;
  readonly end: QueuePosition;
}

interface Segment {
  bytes: number;
  reports: number;
  samples: number;
  /** When the first report in it was counted. */
  firstAtMs: number | undefined;
  /** Octets of reports, by probe. */
  readonly ofProbe: Map<string, number>;
}

interface Waiting extends Omit<LateReport, 'data'> {
  readonly report: Buffer;
}

/** A segment being read. */
interface Reader {
  readonly segment: number;
  bytes: Buffer;
  readonly dictionaries: Map<string, Uint8Array>;
  /** Up to where it was read. */
  scanned: number;
}

export class BacklogQueue {
  readonly #store: SegmentStore;
  readonly #maxBytes: () => number;
  readonly #segments = new Map<number, Segment>();
  /** Dictionaries in the newest segment. */
  readonly #written = new Set<string>();
  #newest = 1;
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  /** Of these, by probe. */
  readonly #waitingOf = new Map<string, number>();
  #position: QueuePosition = { segment: 1, offset: 0 };
  #reader: Reader | undefined;
  #flushing: Promise<void> | undefined;
  /** Samples that found no room, or whose octets the disk did not give back. */
  readonly lost = { queueFull: 0, damaged: 0 };

  constructor(store: SegmentStore, maxBytes: () => number) {
    this.#store = store;
    this.#maxBytes = maxBytes;
  }

  /** Reads what an earlier process left. */
  async open(): Promise<void> {
    const found = await this.#store.list();
    const saved = await this.#store.readPosition();
    for (const { segment, bytes } of found) {
      if (saved !== undefined && segment < saved.segment) {
        await this.#store.remove(segment);
        continue;
      }
      const from = saved?.segment === segment ? saved.offset : 0;
      const entry: Segment = { bytes, reports: 0, samples: 0, firstAtMs: undefined, ofProbe: new Map() };
      for (const { payload, end } of recordsOf(await this.#store.read(segment))) {
        const head = headOf(payload);
        if (head.kind === REPORT && end > from) this.#countIn(entry, { ...head, bytes: payload.length });
      }
      this.#segments.set(segment, entry);
    }
    const first = found.find(({ segment }) => this.#segments.has(segment))?.segment;
    this.#newest = Math.max(saved?.segment ?? 0, found.at(-1)?.segment ?? 0) + 1;
    this.#position =
      first === undefined
        ? { segment: this.#newest, offset: 0 }
        : { segment: first, offset: saved?.segment === first ? saved.offset : 0 };
  }

  get pendingReports(): number {
    return this.#waiting.length + this.#sum(({ reports }) => reports);
  }

  get pendingSamples(): number {
    return this.#waiting.reduce((sum, { samples }) => sum + samples, 0) + this.#sum(({ samples }) => samples);
  }

  get bytes(): number {
    return this.#waitingBytes + this.#sum(({ bytes }) => bytes);
  }

  /** When the report that has waited longest was counted; to a segment. */
  get oldestAtMs(): number | undefined {
    for (const { firstAtMs, reports } of this.#segments.values()) if (reports > 0) return firstAtMs;
    return this.#waiting[0]?.countedAtMs;
  }

  /** Takes a report in; it is in memory until `flush`. */
  push(late: LateReport): void {
    const report = recordOf(REPORT, late, late.data);
    const probe = formatIdentity(late.identity);
    if (this.#waitingBytes + report.length > MAX_WAITING_BYTES || this.#hasItsShare(probe)) {
      this.lost.queueFull += late.samples;
      return;
    }
    addTo(this.#waitingOf, probe, report.length);
    const { identity, dictionary, countedAtMs, samples } = late;
    this.#waiting.push({ report, identity, dictionary, countedAtMs, samples });
    this.#waitingBytes += report.length;
  }

  /** Resolves when everything pushed before the call is on disk. After a failure it waits on, for the next call. */
  async flush(): Promise<void> {
    while (this.#flushing !== undefined) await this.#flushing.catch(() => undefined);
    if (this.#waiting.length === 0) return;
    this.#flushing = this.#write().finally(() => (this.#flushing = undefined));
    await this.#flushing;
  }

  /** The next reports, of about so many samples, at least one; undefined when nothing is on disk. */
  async take(samples: number): Promise<QueuedBatch | undefined> {
    for (;;) {
      const { segment, offset } = this.#position;
      const known = this.#segments.get(segment);
      const upTo = known?.bytes ?? 0;
      if (known !== undefined && upTo > offset) {
        const batch = await this.#read(segment, offset, upTo, samples);
        if (batch !== undefined) return batch;
        if (known.bytes > upTo || this.#position.segment !== segment) continue;
        // Octets that are no records: what was in them is lost.
        this.lost.damaged += known.samples;
        known.reports = 0;
        known.samples = 0;
        await this.#moveTo({ segment, offset: upTo });
        continue;
      }
      const next = [...this.#segments.keys()].find((number) => number > segment);
      if (next === undefined) return undefined;
      await this.#moveTo({ segment: next, offset: 0 });
    }
  }

  /** What was taken is written: it goes. */
  async acknowledge(batch: QueuedBatch): Promise<void> {
    const { segment } = batch.end;
    const known = this.#segments.get(segment);
    // It had to make room meanwhile.
    if (known === undefined || segment < this.#position.segment) return;
    known.reports -= batch.reports.length;
    known.samples -= batch.samples;
    await this.#moveTo(batch.end);
  }

  /** Everything goes, uncounted: nobody wants it. */
  async clear(): Promise<void> {
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#waitingOf.clear();
    while (this.#flushing !== undefined) await this.#flushing.catch(() => undefined);
    for (const segment of [...this.#segments.keys()]) await this.#drop(segment);
    this.#rotate();
    this.#position = { segment: this.#newest, offset: 0 };
    this.#reader = undefined;
  }

  /** Of what waits for the disk, or of the room there, once half of that is taken. */
  #hasItsShare(probe: string): boolean {
    const room = this.#maxBytes();
    const isMemoryScarce = this.#waitingBytes > MAX_WAITING_BYTES / 2;
    const isDiskScarce = this.bytes >= room / 2;
    if (!isMemoryScarce && !isDiskScarce) return false;
    const waiting = this.#waitingOf.get(probe) ?? 0;
    const share = 1 / this.#probes(probe);
    if (isMemoryScarce && waiting > MAX_WAITING_BYTES * share) return true;
    return isDiskScarce && waiting + this.#sum(({ ofProbe }) => ofProbe.get(probe) ?? 0) > room * share;
  }

  /** How many probes have something here, with this one; no more than share it. */
  #probes(probe: string): number {
    const found = new Set([probe]);
    for (const ofProbe of [this.#waitingOf, ...[...this.#segments.values()].map((segment) => segment.ofProbe)]) {
      for (const name of ofProbe.keys()) if (found.add(name).size >= MOST_SHARES) return MOST_SHARES;
    }
    return found.size;
  }

  async #moveTo(position: QueuePosition): Promise<void> {
    this.#position = position;
    const known = this.#segments.get(position.segment);
    const isDone = known !== undefined && known.bytes <= position.offset && this.#flushing === undefined;
    if (isDone && position.segment === this.#newest) this.#rotate();
    if (this.#reader?.segment !== position.segment) this.#reader = undefined;
    await this.#store.writePosition(position);
    for (const segment of [...this.#segments.keys()]) {
      if (segment < position.segment || (isDone && segment === position.segment)) await this.#drop(segment);
    }
  }

  #rotate(): void {
    this.#newest += 1;
    this.#written.clear();
  }

  async #drop(segment: number): Promise<void> {
    this.#segments.delete(segment);
    if (this.#reader?.segment === segment) this.#reader = undefined;
    await this.#store.remove(segment);
  }

  async #write(): Promise<void> {
    const segmentBytes = Math.min(MAX_SEGMENT_BYTES, this.#maxBytes() / LEAST_SEGMENTS);
    while (this.#waiting.length > 0) {
      if ((this.#segments.get(this.#newest)?.bytes ?? 0) >= segmentBytes) this.#rotate();
      const segment = this.#newest;
      const parts: Buffer[] = [];
      const dictionaries: string[] = [];
      const added: Segment = { bytes: 0, reports: 0, samples: 0, firstAtMs: undefined, ofProbe: new Map() };
      const before = this.#segments.get(segment);
      for (const { report, ...late } of this.#waiting) {
        const { identity, dictionary, samples, countedAtMs } = late;
        const name = nameOf(identity, dictionary.hash);
        if (!this.#written.has(name) && !dictionaries.includes(name)) {
          const bytes = recordOf(DICTIONARY, late, encodeDictionary(dictionary));
          dictionaries.push(name);
          parts.push(bytes);
          added.bytes += bytes.length;
        }
        parts.push(report);
        added.bytes += report.length;
        this.#countIn(added, { identity, samples, countedAtMs, bytes: report.length });
        if ((before?.bytes ?? 0) + added.bytes >= segmentBytes) break;
      }
      try {
        await this.#store.append(segment, Buffer.concat(parts));
      } catch (error) {
        // What was half written is behind: the next write begins another segment.
        this.#rotate();
        throw error;
      }
      const done = this.#waiting.splice(0, added.reports);
      for (const { report, identity } of done) {
        const probe = formatIdentity(identity);
        const left = this.#waitingOf.get(probe)! - report.length;
        if (left > 0) this.#waitingOf.set(probe, left);
        else this.#waitingOf.delete(probe);
        this.#waitingBytes -= report.length;
      }
      for (const name of dictionaries) this.#written.add(name);
      const known = this.#segments.get(segment);
      if (known === undefined) this.#segments.set(segment, added);
      else {
        known.bytes += added.bytes;
        known.reports += added.reports;
        known.samples += added.samples;
        for (const [probe, bytes] of added.ofProbe) addTo(known.ofProbe, probe, bytes);
      }
      await this.#makeRoom();
    }
  }

  async #makeRoom(): Promise<void> {
    while (this.#segments.size > 1 && this.#sum(({ bytes }) => bytes) > this.#maxBytes()) {
      const [oldest, { samples }] = [...this.#segments][0]!;
      this.lost.queueFull += samples;
      await this.#drop(oldest);
      const next = [...this.#segments.keys()][0]!;
      if (this.#position.segment <= oldest) this.#position = { segment: next, offset: 0 };
    }
  }

  async #read(segment: number, offset: number, upTo: number, samples: number): Promise<QueuedBatch | undefined> {
    if (this.#reader?.segment !== segment || this.#reader.scanned > offset) {
      this.#reader = { segment, bytes: Buffer.alloc(0), dictionaries: new Map(), scanned: 0 };
    }
    const reader = this.#reader;
    if (reader.bytes.length < upTo) reader.bytes = (await this.#store.read(segment)).subarray(0, upTo);
    const reports: QueuedReport[] = [];
    let taken = 0;
    for (const { payload, end } of recordsOf(reader.bytes, reader.scanned)) {
      const head = headOf(payload);
      const name = nameOf(head.identity, head.hash);
      if (head.kind === DICTIONARY) {
        reader.dictionaries.set(name, head.body);
      } else if (end > offset) {
        if (taken > 0 && taken + head.samples > samples) break;
        const dictionary = reader.dictionaries.get(name);
        if (dictionary === undefined) {
          this.#lose(segment, head.samples);
        } else {
          reports.push({ identity: head.identity, data: head.body, dictionary, countedAtMs: head.countedAtMs });
          taken += head.samples;
        }
      }
      reader.scanned = end;
    }
    return reports.length === 0 ? undefined : { reports, samples: taken, end: { segment, offset: reader.scanned } };
  }

  /** A report without its dictionary says nothing. */
  #lose(segment: number, samples: number): void {
    const known = this.#segments.get(segment);
    if (known === undefined) return;
    known.reports -= 1;
    known.samples -= samples;
    this.lost.damaged += samples;
  }

  #countIn(
    segment: Segment,
    report: {
      readonly identity: Identity;
      readonly samples: number;
      readonly countedAtMs: number;
      readonly bytes: number;
    },
  ): void {
    const { identity, samples, countedAtMs, bytes } = report;
    addTo(segment.ofProbe, formatIdentity(identity), bytes);
    segment.reports += 1;
    segment.samples += samples;
    segment.firstAtMs ??= countedAtMs;
  }

  #sum(of: (segment: Segment) => number): number {
    let sum = 0;
    for (const segment of this.#segments.values()) sum += of(segment);
    return sum;
  }
}

function addTo(sums: Map<string, number>, name: string, bytes: number): void {
  sums.set(name, (sums.get(name) ?? 0) + bytes);
}

interface Head {
  readonly kind: number;
  readonly identity: Identity;
  /** Of the dictionary. */
  readonly hash: string;
  readonly countedAtMs: number;
  readonly samples: number;
  readonly body: Buffer;
}

const HEAD_BYTES = 23;

function recordOf(kind: number, late: Omit<LateReport, 'data'>, body: Uint8Array): Buffer {
  const site = Buffer.from(late.identity.site, 'latin1');
  const probe = Buffer.from(late.identity.probe, 'latin1');
  const head = Buffer.alloc(FRAME_BYTES + HEAD_BYTES);
  head[FRAME_BYTES] = kind;
  head[FRAME_BYTES + 1] = site.length;
  head[FRAME_BYTES + 2] = probe.length;
  head.write(late.dictionary.hash, FRAME_BYTES + 3, 'hex');
  head.writeDoubleLE(late.countedAtMs, FRAME_BYTES + 11);
  head.writeUInt32LE(late.samples, FRAME_BYTES + 19);
  const record = Buffer.concat([head, site, probe, body]);
  const payload = record.subarray(FRAME_BYTES);
  record.writeUInt32LE(payload.length, 0);
  record.writeUInt32LE(crc32c(payload), 4);
  return record;
}

function headOf(payload: Buffer): Head {
  const siteEnd = HEAD_BYTES + payload[1]!;
  const probeEnd = siteEnd + payload[2]!;
  return {
    kind: payload[0]!,
    identity: {
      site: payload.toString('latin1', HEAD_BYTES, siteEnd),
      probe: payload.toString('latin1', siteEnd, probeEnd),
    },
    hash: payload.toString('hex', 3, 11),
    countedAtMs: payload.readDoubleLE(11),
    samples: payload.readUInt32LE(19),
    body: payload.subarray(probeEnd),
  };
}

/** Whole records from `from` on, up to the first octets that are none. */
function* recordsOf(bytes: Buffer, from = 0): Generator<{ readonly payload: Buffer; readonly end: number }> {
  let at = from;
  while (at + FRAME_BYTES <= bytes.length) {
    const end = at + FRAME_BYTES + bytes.readUInt32LE(at);
    const payload = bytes.subarray(at + FRAME_BYTES, end);
    if (end > bytes.length || payload.length < HEAD_BYTES || crc32c(payload) !== bytes.readUInt32LE(at + 4)) return;
    yield { payload, end };
    at = end;
  }
}

function nameOf(identity: Identity, hash: string): string {
  return `${formatIdentity(identity)} ${hash}`;
}
