/**
 * DNS queries and what their answers begin with (RFC 1035 section 4.1). Bytes only.
 *
 *      0 +---------------+--+----+--+--+--+-------+-----+
 *        | ID            |QR|Op  |AA|TC|RD|RA| Z  |Rcode|
 *      4 +---------------+--+----+--+--+--+--+----+-----+
 *        | Questions: 1  | Answers       |
 *      8 +---------------+---------------+
 *        | Authorities   | Additional    |
 *     12 +---------------+---------------+
 *        | Question: name as labels, each after its length, an octet 0, type, class IN
 *
 * An answer repeats the question octet by octet, so nothing in it has to be taken apart: it is compared. What follows is
 * not read.
 */
import { DNS_TYPES, type DnsQuestion } from '@wanscope/shared';

const HEADER_BYTES = 12;
const CLASS_IN = 1;
const FLAG_RESPONSE = 0x80;
const FLAG_TRUNCATED = 0x02;
const FLAG_RECURSION_DESIRED = 0x01;
const OPCODE_MASK = 0x78;
const RCODE_MASK = 0x0f;
export const RCODE = { noError: 0, formatError: 1, servfail: 2, nxdomain: 3, notImplemented: 4, refused: 5 } as const;

/** Longest query: a name takes 255 octets at most. */
export const MAX_QUERY_BYTES = HEADER_BYTES + 255 + 4;

/**
 * A recursive query.
 *
 * @param id 16 random bits.
 * @param caseBits random octets that choose the case of letters, one bit for each character of the name, so that who does
 *   not see the query has to guess them too; octets that are missing leave the rest in lower case.
 */
export function writeQuery(question: DnsQuestion, id: number, caseBits: Uint8Array): Buffer {
  const name = question.name.replace(/\.$/, '').toLowerCase();
  const labels = name === '' ? [] : name.split('.');
  const query = Buffer.alloc(HEADER_BYTES + labels.reduce((sum, label) => sum + 1 + label.length, 0) + 5);
  query.writeUInt16BE(id, 0);
  query.writeUInt8(FLAG_RECURSION_DESIRED, 2);
  query.writeUInt16BE(1, 4);
  let at = HEADER_BYTES;
  let letter = 0;
  for (const label of labels) {
    query.writeUInt8(label.length, at);
    at += 1;
    for (const character of label) {
      const isUpper = (((caseBits[letter >> 3] ?? 0) >> (letter & 7)) & 1) === 1;
      query.write(isUpper ? character.toUpperCase() : character, at, 'latin1');
      at += 1;
      letter += 1;
    }
  }
  query.writeUInt16BE(DNS_TYPES[question.type], at + 1);
  query.writeUInt16BE(CLASS_IN, at + 3);
  return query;
}

export interface DnsAnswer {
  /** 0 to 15. */
  readonly rcode: number;
  /** The rest did not fit in a datagram. */
  readonly truncated: boolean;
}

/**
 * Reads a packet as the answer to `query`; undefined when it is not: another ID, not a response, or another question. A
 * server that could not read or would not take the query may leave the question out.
 */
export function readAnswer(packet: Uint8Array, query: Uint8Array): DnsAnswer | undefined {
  if (packet.length < HEADER_BYTES || packet[0] !== query[0] || packet[1] !== query[1]) return undefined;
  const flags = packet[2]!;
  if ((flags & FLAG_RESPONSE) === 0 || (flags & OPCODE_MASK) !== 0) return undefined;
  const answer = { rcode: packet[3]! & RCODE_MASK, truncated: (flags & FLAG_TRUNCATED) !== 0 };
  const questions = (packet[4]! << 8) | packet[5]!;
  if (questions === 0) return answer.rcode === RCODE.noError || answer.rcode === RCODE.nxdomain ? undefined : answer;
  if (questions !== 1 || packet.length < query.length) return undefined;
  for (let at = HEADER_BYTES; at < query.length; at += 1) {
    if (packet[at] !== query[at]) return undefined;
  }
  return answer;
}
