import { createPrivateKey, X509Certificate } from 'node:crypto';
import { beforeAll, describe, expect, test } from 'vitest';
import { brokerCertificate, leafCertificate, newCertificates, type Certificates } from './certificate.ts';

const NOON = Date.UTC(2026, 0, 5, 12);
const DAY_MS = 86_400_000;
let made: Certificates;

beforeAll(async () => {
  made = await newCertificates(['broker.example', '192.0.2.1', '2001:db8::1'], 'test', NOON);
});

describe('the certificate of a broker', () => {
  test('is signed by the authority of its fleet, which may sign nothing but ends', () => {
    const [ca, server] = [new X509Certificate(made.ca), new X509Certificate(made.server)];
    expect(server.checkIssued(ca)).toBe(true);
    expect(server.verify(ca.publicKey)).toBe(true);
    expect([ca.ca, server.ca]).toEqual([true, false]);
    expect(ca.subject).toBe('CN=wanscope test CA');
    expect(server.checkPrivateKey(createPrivateKey(made.key))).toBe(true);
    expect(ca.checkPrivateKey(createPrivateKey(made.caKey))).toBe(true);
  });

  test('is good for its names and addresses and no others', () => {
    const server = new X509Certificate(made.server);
    expect(server.checkHost('broker.example')).toBe('broker.example');
    expect(server.checkHost('other.example')).toBeUndefined();
    expect(server.checkIP('192.0.2.1')).toBe('192.0.2.1');
    expect(server.checkIP('2001:db8::1')).toBeDefined();
    expect(server.checkIP('192.0.2.2')).toBeUndefined();
  });

  test('is good from the day before for 397 days, its authority for ten years', () => {
    const [ca, server] = [new X509Certificate(made.ca), new X509Certificate(made.server)];
    expect(Date.parse(server.validFrom)).toBe(NOON - DAY_MS);
    expect(Date.parse(server.validTo)).toBe(NOON + 397 * DAY_MS);
    expect(Date.parse(ca.validTo)).toBe(NOON + 3_650 * DAY_MS);
  });

  test('is good for both ends of a route between brokers, that of a leaf node for none', async () => {
    // RFC 5280, section 4.2.1.12: id-kp-serverAuth and id-kp-clientAuth.
    const [server, client] = ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2'];
    const leaf = await leafCertificate(['leaf.example'], made, NOON);
    expect(new X509Certificate(made.server).keyUsage).toEqual([server, client]);
    expect(new X509Certificate(leaf.server).keyUsage).toEqual([server]);
    expect(new X509Certificate(leaf.server).verify(new X509Certificate(made.ca).publicKey)).toBe(true);
  });

  test('can be made anew by the same authority, for other names and with another key', async () => {
    const again = await brokerCertificate(['new.example'], made, NOON + DAY_MS);
    const server = new X509Certificate(again.server);
    expect(again.ca).toBe(made.ca);
    expect(server.verify(new X509Certificate(made.ca).publicKey)).toBe(true);
    expect(server.checkHost('new.example')).toBe('new.example');
    expect(server.checkHost('broker.example')).toBeUndefined();
    expect(again.key).not.toBe(made.key);
    expect(server.serialNumber).not.toBe(new X509Certificate(made.server).serialNumber);
  });
});
