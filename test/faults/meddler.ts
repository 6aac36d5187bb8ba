/** Somebody with the broker's own rights: takes messages out, and publishes them again, elsewhere, damaged or in another order. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, headers, type JetStreamManager, type NatsConnection } from 'nats';
import { decodeReport, isDictionary, parseSubject, REPORT_STREAM, subjectOf, type Identity } from '@wanscope/shared';
import type { Random } from '@wanscope/shared/testing';
import { BROKER_PORT } from './world.ts';
import type { FORGERIES } from './schedule.ts';

const PATIENCE_MS = 2_000;
/** A broker that was killed is back by then. */
const AWAY_MS = 6_000;
const AGAIN_MS = 200;

interface Stored {
  readonly seq: number;
  readonly subject: string;
  readonly data: Uint8Array;
  readonly id: string | undefined;
}

export class Meddler {
  readonly #random: Random;
  readonly #identities: readonly Identity[];

  constructor(random: Random, identities: readonly Identity[]) {
    this.#random = random;
    this.#identities = identities;
  }

  /** Publishes stored messages again, of any age. @returns how many. */
  async duplicate(count: number, sameId: boolean): Promise<number> {
    return this.#use(async (connection, manager) => {
      const found = await this.#some(manager, count);
      for (const { subject, data, id } of shuffled(found, this.#random)) {
        await this.#publish(connection, subject, data, sameId ? id : undefined);
      }
      return found.length;
    });
  }

  /** Takes the newest out of the stream and publishes them in another order. @returns how many. */
  async reorder(count: number): Promise<number> {
    return this.#use(async (connection, manager) => {
      const { last_seq: last } = (await manager.streams.info(REPORT_STREAM)).state;
      const found = await this.#read(manager, Math.max(1, last - count), last);
      for (const { seq } of found) await manager.streams.deleteMessage(REPORT_STREAM, seq);
      for (const { subject, data } of shuffled(found, this.#random)) await this.#publish(connection, subject, data);
      return found.length;
    });
  }

  /** Publishes what must not be counted. @returns how many. */
  async forge(what: (typeof FORGERIES)[number], count: number): Promise<number> {
    return this.#use(async (connection, manager) => {
      const found = (await this.#some(manager, count)).filter(({ data }) => !isDictionary(data));
      let forged = 0;
      for (const { subject, data } of found) {
        const victim = this.#forge(what, subject, data);
        if (victim === undefined) continue;
        await this.#publish(connection, victim.subject, victim.data);
        forged += 1;
      }
      return forged;
    });
  }

  async purge(): Promise<void> {
    await this.#use((_connection, manager) => manager.streams.purge(REPORT_STREAM));
  }

  async deleteStream(): Promise<void> {
    await this.#use((_connection, manager) => manager.streams.delete(REPORT_STREAM));
  }

  #forge(
    what: (typeof FORGERIES)[number],
    subject: string,
    data: Uint8Array,
  ): { readonly subject: string; readonly data: Uint8Array } | undefined {
    const octets = Uint8Array.from(data);
    switch (what) {
      case 'other identity': {
        const owner = parseSubject(subject)?.identity;
        const other = this.#random.pick(this.#identities);
        // A report without records says nothing of whose it is.
        if (owner?.site === other.site || decodeReport(data).records.length === 0) return undefined;
        return { subject: subjectOf('report', other), data };
      }
      case 'flipped':
        octets[this.#random.int(octets.length)]! ^= 1 << this.#random.int(8);
        return { subject, data: octets };
      case 'cut':
        return { subject, data: octets.subarray(0, this.#random.int(octets.length)) };
      case 'noise':
        return { subject, data: this.#random.bytes(this.#random.int(2_000)) };
    }
  }

  async #publish(connection: NatsConnection, subject: string, data: Uint8Array, id?: string): Promise<void> {
    const withId = headers();
    if (id !== undefined) withId.set('Nats-Msg-Id', id);
    connection.publish(subject, data, id === undefined ? {} : { headers: withId });
    await connection.flush();
  }

  /** As many as asked for, from a random place on. */
  async #some(manager: JetStreamManager, count: number): Promise<Stored[]> {
    const { first_seq: first, last_seq: last } = (await manager.streams.info(REPORT_STREAM)).state;
    const from = first + this.#random.int(Math.max(1, last - first));
    return this.#read(manager, from, Math.min(last, from + count - 1));
  }

  async #read(manager: JetStreamManager, from: number, to: number): Promise<Stored[]> {
    const found: Stored[] = [];
    for (let seq = from; seq <= to; seq += 1) {
      const message = await manager.streams.getMessage(REPORT_STREAM, { seq }).catch(() => undefined);
      if (message === undefined) continue;
      const id = message.header.get('Nats-Msg-Id');
      found.push({ seq, subject: message.subject, data: message.data, id: id === '' ? undefined : id });
    }
    return found;
  }

  /** Waits for a broker that is away for a moment. */
  async #connect(): Promise<NatsConnection> {
    const deadlineMs = Date.now() + AWAY_MS;
    for (;;) {
      try {
        const servers = `127.0.0.1:${BROKER_PORT}`;
        return await connect({ servers, reconnect: false, timeout: PATIENCE_MS, name: 'meddler' });
      } catch (error) {
        if (Date.now() > deadlineMs) throw error;
        await sleep(AGAIN_MS);
      }
    }
  }

  async #use<T>(work: (connection: NatsConnection, manager: JetStreamManager) => Promise<T>): Promise<T> {
    const connection = await this.#connect();
    // What a client waits for when its broker is killed may never be answered, nor refused.
    const gone = connection.closed().then(() => {
      throw new Error('the broker went away');
    });
    const done = connection.jetstreamManager({ timeout: PATIENCE_MS }).then((manager) => work(connection, manager));
    try {
      return await Promise.race([done, gone]);
    } finally {
      await connection.close();
    }
  }
}

function shuffled<T>(items: readonly T[], random: Random): T[] {
  const left = [...items];
  return items.map(() => left.splice(random.int(left.length), 1)[0]!);
}
