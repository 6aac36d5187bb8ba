/**
 * Frames of WebSocket as a client speaks it (RFC 6455, section 5): what it sends is one masked frame a message, what it takes may be
 * fragmented. No extensions.
 *
 *   FIN RSV1-3 opcode | MASK length(7) | length(16 or 64) | mask(32) | payload
 */
const FIN = 0x80;
const RESERVED = 0x70;
const OPCODE = 0x0f;
const MASK = 0x80;
const LENGTH = 0x7f;
const LENGTH_16 = 126;
const LENGTH_64 = 127;
const MASK_BYTES = 4;
/** Of a message of the broker: its largest and what it is framed with. */
const MAX_PAYLOAD_BYTES = 8 * 1_024 * 1_024;
const MAX_CONTROL_BYTES = 125;

export const WEBSOCKET_OPCODES = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

/** @param mask 4 octets that nobody can foretell. */
export function encodeFrame(opcode: number, payload: Uint8Array, mask: Uint8Array): Buffer {
  const { length } = payload;
  const lengthBytes = length < LENGTH_16 ? 0 : length < 0x1_0000 ? 2 : 8;
  const head = 2 + lengthBytes + MASK_BYTES;
  const frame = Buffer.allocUnsafe(head + length);
  frame[0] = FIN | opcode;
  if (lengthBytes === 0) frame[1] = MASK | length;
  else if (lengthBytes === 2) {
    frame[1] = MASK | LENGTH_16;
    frame.writeUInt16BE(length, 2);
  } else {
    frame[1] = MASK | LENGTH_64;
    frame.writeBigUInt64BE(BigInt(length), 2);
  }
  frame.set(mask.subarray(0, MASK_BYTES), 2 + lengthBytes);
  for (let i = 0; i < length; i += 1) frame[head + i] = payload[i]! ^ mask[i & 3]!;
  return frame;
}

export type FrameEvent =
  | { readonly kind: 'data'; readonly payload: Buffer }
  | { readonly kind: 'ping'; readonly payload: Buffer }
  | { readonly kind: 'close' }
  /** What came is no WebSocket: nothing after it can be read. */
  | { readonly kind: 'broken'; readonly reason: string };

/** Takes octets as they come and gives what is complete. Fragments are given as they are: the stream within has frames of its own. */
export class FrameReader {
  #rest: Buffer = Buffer.alloc(0);
  #isBroken = false;

  push(chunk: Uint8Array): FrameEvent[] {
    if (this.#isBroken) return [];
    // A copy of its own, of which payloads are parts: a chunk may be thousands of frames.
    const octets = Buffer.concat([this.#rest, chunk]);
    const events: FrameEvent[] = [];
    let at = 0;
    for (;;) {
      const frame = readFrame(octets, at);
      if (frame === undefined) break;
      if (typeof frame === 'string') {
        this.#isBroken = true;
        events.push({ kind: 'broken', reason: frame });
        at = octets.length;
        break;
      }
      at += frame.bytes;
      if (frame.event !== undefined) events.push(frame.event);
    }
    // What is given away is the reader's no more.
    this.#rest = at === 0 ? octets : Buffer.from(octets.subarray(at));
    return events;
  }
}

/** The frame that begins at `at`. Undefined while it is not complete; a text says why it cannot be read. */
function readFrame(
  octets: Buffer,
  at: number,
): { readonly bytes: number; readonly event: FrameEvent | undefined } | string | undefined {
  const there = octets.length - at;
  if (there < 2) return undefined;
  const [first, second] = [octets[at]!, octets[at + 1]!];
  if ((first & RESERVED) !== 0) return 'an extension that was not agreed on';
  if ((second & MASK) !== 0) return 'a masked frame of a server';
  let length = second & LENGTH;
  let head = 2;
  if (length === LENGTH_16) {
    if (there < 4) return undefined;
    length = octets.readUInt16BE(at + 2);
    head = 4;
  } else if (length === LENGTH_64) {
    if (there < 10) return undefined;
    const long = octets.readBigUInt64BE(at + 2);
    if (long > BigInt(MAX_PAYLOAD_BYTES)) return 'a frame that is too long';
    length = Number(long);
    head = 10;
  }
  if (length > MAX_PAYLOAD_BYTES) return 'a frame that is too long';
  const opcode = first & OPCODE;
  const isControl = opcode >= WEBSOCKET_OPCODES.close;
  if (isControl && (length > MAX_CONTROL_BYTES || (first & FIN) === 0)) return 'a control frame in parts';
  const bytes = head + length;
  if (there < bytes) return undefined;
  const payload = octets.subarray(at + head, at + bytes);
  switch (opcode) {
    case WEBSOCKET_OPCODES.continuation:
    case WEBSOCKET_OPCODES.text:
    case WEBSOCKET_OPCODES.binary:
      return { bytes, event: { kind: 'data', payload } };
    case WEBSOCKET_OPCODES.ping:
      return { bytes, event: { kind: 'ping', payload } };
    case WEBSOCKET_OPCODES.pong:
      return { bytes, event: undefined };
    case WEBSOCKET_OPCODES.close:
      return { bytes, event: { kind: 'close' } };
    default:
      return `opcode ${opcode}`;
  }
}
