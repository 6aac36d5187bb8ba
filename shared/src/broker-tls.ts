/** How a broker has to show who it is. */
import { checkServerIdentity, type PeerCertificate } from 'node:tls';

/** Options of the NATS client; what is set is insisted upon: a broker without TLS is not spoken to. */
export interface BrokerTls {
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
