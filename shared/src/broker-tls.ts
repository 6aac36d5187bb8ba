/** How a broker has to show who it is, and what a server that has not may cost a client. */
import { checkServerIdentity, DEFAULT_CIPHERS, type PeerCertificate } from 'node:tls';

/**
 * What a client offers in a handshake: the server chooses of it, before anything is known of its certificate. With a finite field (DHE, ffdhe8192) it would
 * choose the client's cost: 850 ms of the event loop for a prime of 10,000 bits, 120 ms for TLS 1.3's largest group, against 3 ms.
 */
export function clientHandshake(): Handshake {
  // Asked for late: a probe without TLS does not load it.
  return { ciphers: `${DEFAULT_CIPHERS}:!DHE`, ecdhCurve: 'X25519:P-256:P-384:P-521' };
}

export interface Handshake {
  readonly ciphers: string;
  readonly ecdhCurve: string;
}

/** Options of the NATS client; what is set is insisted upon: a broker without TLS is not spoken to. */
export interface BrokerTls extends Handshake {
  readonly ca?: string;
  readonly checkServerIdentity: (host: string, certificate: PeerCertificate) => Error | undefined;
}

/**
 * Undefined where no address says `tls:` and no certificates are given. The certificate has to be good for one of the
 * addresses as they are configured, names or IP addresses: the client itself forgets those that are no names.
 *
 * @param ca certificates (PEM) of who may vouch for the broker; undefined: those of the system.
 */
export function brokerTls(servers: readonly string[], ca: string | undefined): BrokerTls | undefined {
  if (ca === undefined && !servers.some((url) => /^(?:tls|wss):/.test(url))) return undefined;
  const hosts = servers.map(hostOf);
  return {
    ...clientHandshake(),
    ...(ca !== undefined && { ca }),
    checkServerIdentity: (_host, certificate) => {
      const problems = hosts.map((host) => checkServerIdentity(host, certificate));
      return problems.includes(undefined) ? undefined : problems[0];
    },
  };
}

function hostOf(server: string): string {
  const { hostname } = new URL(server.includes('://') ? server : `nats://${server}`);
  return hostname.replace(/^\[|\]$/g, '');
}
