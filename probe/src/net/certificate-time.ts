/**
 * Whether a broker's certificate can be good where the machine's clock is wrong and all that is known is a time that is over: what
 * TLS itself cannot be asked. One that had ended by then has ended. When one begins says nothing: it may be later than anybody here
 * knows. Only for the plain case, which is wan-admin's: a certificate that a pinned authority issued itself, or that is pinned itself.
 */
import { X509Certificate } from 'node:crypto';

const SERVER_AUTHENTICATION = '1.3.6.1.5.5.7.3.1';

/** @param pem certificates. @throws Error when one of them is none. */
export function readCertificates(pem: string): X509Certificate[] {
  const texts = pem.match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g) ?? [];
  return texts.map((text) => new X509Certificate(text));
}

/** What is wrong with it, in words; undefined when nothing is. Names are not looked at. */
export function certificateProblem(
  certificate: X509Certificate,
  pinned: readonly X509Certificate[],
  floorMs: number,
): string | undefined {
  const self = pinned.find((one) => one.fingerprint256 === certificate.fingerprint256);
  const issuer =
    self ?? pinned.find((one) => one.ca && certificate.checkIssued(one) && certificate.verify(one.publicKey));
  if (issuer === undefined) return 'no pinned authority issued it';
  // What Node calls so is the extended key usage; without one it is good for everything.
  const usage = certificate.keyUsage as readonly string[] | undefined;
  if (usage !== undefined && !usage.includes(SERVER_AUTHENTICATION)) return 'it is not for servers';
  for (const one of new Set([certificate, issuer])) {
    const what = one === certificate ? 'it' : 'its issuer';
    if (!(Date.parse(one.validTo) >= floorMs)) return `${what} ended at ${one.validTo}`;
  }
  return undefined;
}
