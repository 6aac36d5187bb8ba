/** A certificate authority of one fleet and the broker's certificate (X.509, ECDSA P-256). */
import 'reflect-metadata';
import { randomBytes, webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const DAY_MS = 86_400_000;
const CA_DAYS = 3_650;
/** Browsers take no longer ones, and nobody else needs them. */
const SERVER_DAYS = 397;
/** Clocks of routers are slow at times. */
const BACKDATED_DAYS = 1;

/** PEM. */
export interface Certificates {
  /** Names and addresses that the server's certificate is good for. */
  readonly names: string[];
  readonly ca: string;
  /** SECRET */
  readonly caKey: string;
  readonly server: string;
  /** SECRET */
  readonly key: string;
}

type Authority = Pick<Certificates, 'ca' | 'caKey'>;

/** @param names names and addresses by which probes and the collector reach the broker. */
export async function newCertificates(names: readonly string[], fleet: string, nowMs: number): Promise<Certificates> {
  const crypto = cryptoOfNode();
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const ca = await X509CertificateGenerator.createSelfSigned(
    {
      serialNumber: serial(),
      name: `CN=wanscope ${fleet} CA`,
      ...validity(nowMs, CA_DAYS),
      keys,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new BasicConstraintsExtension(true, 0, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
        await SubjectKeyIdentifierExtension.create(keys.publicKey, false, crypto),
      ],
    },
    crypto,
  );
  const issued = { ca: ca.toString('pem'), caKey: await privatePem(crypto, keys.privateKey) };
  return brokerCertificate(names, issued, nowMs);
}

/** Another certificate of the broker by the same authority. Brokers of a cluster are each other's clients, too. */
export async function brokerCertificate(names: readonly string[], by: Authority, nowMs: number): Promise<Certificates> {
  return issue(names, by, nowMs, [ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]);
}

/** A certificate of a leaf node by the same authority: no broker of a cluster takes it for one of its own. */
export async function leafCertificate(names: readonly string[], by: Authority, nowMs: number): Promise<Certificates> {
  return issue(names, by, nowMs, [ExtendedKeyUsage.serverAuth]);
}

async function issue(
  names: readonly string[],
  { ca, caKey }: Authority,
  nowMs: number,
  usages: readonly ExtendedKeyUsage[],
): Promise<Certificates> {
  const crypto = cryptoOfNode();
  const authority = new X509Certificate(ca);
  const signingKey = await crypto.subtle.importKey('pkcs8', PemConverter.decodeFirst(caKey), ALGORITHM, false, [
    'sign',
  ]);
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const server = await X509CertificateGenerator.create(
    {
      serialNumber: serial(),
      subject: `CN=${names[0]!}`,
      issuer: authority.subject,
      ...validity(nowMs, SERVER_DAYS),
      publicKey: keys.publicKey,
      signingKey,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new BasicConstraintsExtension(false, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        new ExtendedKeyUsageExtension([...usages]),
        new SubjectAlternativeNameExtension(
          names.map((value) => ({ type: isIP(value) === 0 ? ('dns' as const) : ('ip' as const), value })),
        ),
        await AuthorityKeyIdentifierExtension.create(authority, false, crypto),
      ],
    },
    crypto,
  );
  return {
    names: [...names],
    ca,
    caKey,
    server: server.toString('pem'),
    key: await privatePem(crypto, keys.privateKey),
  };
}

function cryptoOfNode(): webcrypto.Crypto {
  cryptoProvider.set(webcrypto);
  return webcrypto;
}

function serial(): string {
  // Positive, and without a leading zero octet.
  return `4${randomBytes(16).toString('hex').slice(1)}`;
}

function validity(nowMs: number, days: number): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(nowMs - BACKDATED_DAYS * DAY_MS), notAfter: new Date(nowMs + days * DAY_MS) };
}

async function privatePem(crypto: webcrypto.Crypto, key: webcrypto.CryptoKey): Promise<string> {
  return PemConverter.encode(await crypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY');
}
