import { createSecureContext, type PeerCertificate } from 'node:tls';
import { describe, expect, test } from 'vitest';
import { brokerTls } from './broker-tls.ts';

const certificate = {
  subject: { CN: 'broker.example' },
  subjectaltname: 'DNS:broker.example, IP Address:192.0.2.1, IP Address:2001:DB8:0:0:0:0:0:1',
} as unknown as PeerCertificate;

/** What is said when the client asks, which knows the host only where it is a name. */
const refusalOf = (...servers: readonly string[]): string | undefined =>
  brokerTls(servers, undefined)!.checkServerIdentity('localhost', certificate)?.message;

describe('a broker', () => {
  test('needs no TLS where neither an address nor certificates ask for it', () => {
    expect(brokerTls(['nats://broker.example:4222', 'broker.example'], undefined)).toBeUndefined();
  });

  test('chooses no prime of its own in a handshake', () => {
    const { ciphers, ecdhCurve } = brokerTls(['tls://broker.example'], undefined)!;
    const context = createSecureContext({ ciphers, ecdhCurve });
    expect(context).toBeDefined();
    expect(ciphers.split(':')).toContain('!DHE');
    expect(ecdhCurve).not.toContain('ffdhe');
  });

  test('needs it where one address asks for it, or where certificates are given', () => {
    expect(brokerTls(['tls://broker.example'], undefined)).toBeDefined();
    expect(brokerTls(['broker.example'], 'PEM')?.ca).toBe('PEM');
  });

  test.each(['tls://broker.example:4222', 'tls://192.0.2.1', 'tls://[2001:db8::1]:4222'])(
    '%s is who it says',
    (url) => {
      expect(refusalOf(url)).toBeUndefined();
      expect(refusalOf('tls://other.example', url)).toBeUndefined();
    },
  );

  test.each(['tls://other.example', 'tls://192.0.2.2', 'tls://localhost'])('%s is not', (url) => {
    expect(refusalOf(url)).toContain("does not match certificate's altnames");
  });
});
