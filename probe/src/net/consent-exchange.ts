/** How a token travels to a reflector and its answer back: one datagram, or one connection, from the address of the session. */
import { randomBytes, randomInt } from 'node:crypto';
import { createSocket } from 'node:dgram';
import type { Clock, Identity, PlannedSession } from '@wanscope/shared';
import type { AskedProtocol, Exchange } from '../consent.ts';
import {
  CONSENT_HEADER,
  consentRequest,
  isConsent,
  MAX_CONSENT_LINE_BYTES,
  type ConsentTransport,
} from '../packet/consent-token.ts';
import { AUTHENTICATED_BYTES, readAuthenticatedReply, writeAuthenticatedRequest } from '../packet/stamp-auth.ts';
import { emptyReply, ERROR_ESTIMATE, readReply, STAMP_BYTES, writeRequest } from '../packet/stamp.ts';
import { SSID_CLASSES, SSIDS_OF_CLASS } from '../packet/ssid.ts';
import type { ConsentKey } from '../peer-keys.ts';
import { connectFrom, descriptorFor, type DomainSockets } from './domain-sockets.ts';
import { sameAddress } from './destination.ts';

const WAIT_MS = 900;
const MAX_HTTP_BYTES = 4_096;

export interface ConsentExchangeOptions {
  readonly clock: Clock;
  readonly self: Identity;
  /** Key that is agreed with the probe at the other end. */
  readonly keyFor: (planned: PlannedSession) => ConsentKey;
  readonly inDomains: DomainSockets | undefined;
  /** False where the router's own settings do not let it be sent to. */
  readonly allows: (address: string, planned: PlannedSession) => boolean;
}

export function consentExchange(options: ConsentExchangeOptions): Exchange {
  return async (protocol: AskedProtocol, planned: PlannedSession) => {
    const { address, ask } = planned.target;
    const port = ask?.[protocol];
    if (address === undefined || port === undefined || !options.allows(address, planned)) return false;
    const consentKey = options.keyFor(planned);
    if (consentKey === 'impossible') return false;
    const agreed = consentKey === 'none' ? undefined : consentKey;
    try {
      if (protocol === 'udp') return await overUdp(options, planned, address, port, agreed);
      return await overConnection(options, planned, address, port, protocol, agreed?.key ?? new Uint8Array());
    } catch {
      // No socket, no route: as if nothing had been answered.
      return false;
    }
  };
}

/** A STAMP packet, authenticated where both ends have keys. */
async function overUdp(
  { clock, inDomains }: ConsentExchangeOptions,
  planned: PlannedSession,
  address: string,
  port: number,
  agreed: { readonly key: Uint8Array; readonly ssidClass: number } | undefined,
): Promise<boolean> {
  const [seq, t1High, t1Low] = [randomInt(2 ** 32), randomInt(2 ** 32), randomInt(2 ** 32)];
  const ssid =
    agreed === undefined ? 1 + randomInt(0xffff) : agreed.ssidClass + SSID_CLASSES * randomInt(SSIDS_OF_CLASS);
  const request = { seq, t1High, t1Low, errorEstimate: ERROR_ESTIMATE, ssid };
  const packet = Buffer.alloc(agreed === undefined ? STAMP_BYTES : AUTHENTICATED_BYTES);
  if (agreed === undefined) writeRequest(packet, request);
  else writeAuthenticatedRequest(packet, request, agreed.key);
  const isIpv4 = planned.path.family === 'ipv4';
  const fd = descriptorFor(inDomains, planned, 'datagram');
  const socket = createSocket({ type: isIpv4 ? 'udp4' : 'udp6' });
  return new Promise<boolean>((resolve) => {
    const end = (isGood: boolean): void => {
      cancel();
      socket.removeAllListeners('message');
      socket.close();
      resolve(isGood);
    };
    const cancel = clock.after(WAIT_MS, () => end(false));
    socket.once('error', () => end(false));
    socket.on('message', (answer, from) => {
      if (from.port !== port || !sameAddress(from.address, address)) return;
      const reply = emptyReply();
      const isReply =
        agreed === undefined ? readReply(answer, reply) : readAuthenticatedReply(answer, agreed.key, reply);
      // A service that sends back what it got has nothing where a reflector's times are.
      const isReflected = reply.t2High !== 0 && reply.t3High !== 0;
      if (isReply && isReflected && reply.senderSeq === seq && reply.t1High === t1High && reply.t1Low === t1Low)
        end(true);
    });
    const send = (): void => {
      socket.send(packet, port, address, (error) => {
        if (error !== null) end(false);
      });
    };
    if (fd !== undefined) socket.bind({ fd }, send);
    else
      socket.bind(
        { port: 0, ...(planned.source.address === undefined ? {} : { address: planned.source.address }) },
        send,
      );
  });
}

/** A connection that says one line, and hears one. */
async function overConnection(
  { clock, self, inDomains }: ConsentExchangeOptions,
  planned: PlannedSession,
  address: string,
  port: number,
  transport: ConsentTransport,
  key: Uint8Array,
): Promise<boolean> {
  const request = { asker: self, nonce: randomBytes(16).toString('hex') };
  const socket = connectFrom(inDomains, planned, address, port);
  return new Promise<boolean>((resolve) => {
    let heard = '';
    let isOver = false;
    const end = (isGood: boolean): void => {
      if (isOver) return;
      isOver = true;
      cancel();
      socket.destroy();
      resolve(isGood);
    };
    // Before the system would repeat a SYN.
    const cancel = clock.after(WAIT_MS, () => end(false));
    const judge = (): void => {
      const line = answerIn(heard, transport);
      if (line !== undefined) end(isConsent(line, transport, request, key));
      else if (heard.length > MAX_HTTP_BYTES) end(false);
    };
    socket.setEncoding('latin1');
    socket.on('error', () => end(false));
    socket.on('close', () => end(false));
    socket.on('data', (data: string) => {
      heard += data.slice(0, MAX_HTTP_BYTES + 1);
      judge();
    });
    socket.once('connect', () => {
      const line = `${CONSENT_HEADER}${transport === 'http' ? ':' : ''} ${consentRequest(request)}`;
      const host = address.includes(':') ? `[${address}]` : address;
      socket.write(
        transport === 'tcp' ? `${line}\n` : `GET / HTTP/1.1\r\nhost: ${host}\r\n${line}\r\nconnection: close\r\n\r\n`,
      );
    });
  });
}

/** What follows the name in the first line that has it; undefined until it is whole. */
function answerIn(text: string, transport: ConsentTransport): string | undefined {
  const match =
    transport === 'tcp' ? /^wan-consent (.{1,256}?)\r?\n/.exec(text) : /\r\nwan-consent: ?(.{1,256}?)\r\n/i.exec(text);
  const line = match?.[1];
  return line === undefined || line.length > MAX_CONSENT_LINE_BYTES ? undefined : line;
}
