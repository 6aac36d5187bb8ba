/** When a chain of certificates ends to be good: what a client sees expire first. */
import { X509Certificate } from 'node:crypto';
import * as tls from 'node:tls';

/** What of a certificate the TLS layer tells; `issuerCertificate` is the certificate itself where a root ends the chain. */
export interface ChainLink {
  readonly raw: Buffer;
  readonly valid_to: string;
  readonly issuerCertificate?: ChainLink;
}

/** Longer chains are cut: a server may send anything. */
const MAX_LINKS = 10;

/** Certificates that end a chain, by subject. Read when they are first needed. */
export class TrustAnchors {
  readonly #texts: () => readonly string[];
  #bySubject: Map<string, string[]> | undefined;

  /** @param texts PEM; undefined: those that Node trusts. */
  constructor(texts: readonly string[] | undefined) {
    this.#texts = () => texts ?? nodesOwn();
  }

  /** The one that issued a certificate. */
  issuerOf(certificate: X509Certificate): X509Certificate | undefined {
    for (const text of this.#subjects().get(certificate.issuer) ?? []) {
      const candidate = new X509Certificate(text);
      if (certificate.checkIssued(candidate) && certificate.verify(candidate.publicKey)) return candidate;
    }
    return undefined;
  }

  /** Only texts are kept: certificates that were read take ten times their size. */
  #subjects(): Map<string, string[]> {
    if (this.#bySubject !== undefined) return this.#bySubject;
    const found = new Map<string, string[]>();
    for (const text of this.#texts()) {
      for (const one of text.match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g) ?? []) {
        try {
          const { subject } = new X509Certificate(one);
          found.set(subject, [...(found.get(subject) ?? []), one]);
        } catch {
          // One that cannot be read is trusted by nobody.
        }
      }
    }
    this.#bySubject = found;
    return found;
  }
}

function nodesOwn(): readonly string[] {
  const { getCACertificates } = tls as { readonly getCACertificates?: (type: 'default') => string[] };
  return getCACertificates?.('default') ?? tls.rootCertificates;
}

/**
 * The earliest end of validity, milliseconds since the epoch, of the certificates that a client verifies: the leaf and those that lead
 * to a trust anchor, which ends the chain as soon as there is one (as OpenSSL looks first in its own store); a server may send others
 * besides, such as a cross-signed root that has expired. Undefined where no end can be read.
 *
 * @param leaf the server's, of a chain that was verified.
 */
export function chainEndMs(leaf: ChainLink, anchors: TrustAnchors): number | undefined {
  const links = linksOf(leaf);
  const leafEndMs = endMs(links[0]!.valid_to);
  const earliest = (ends: readonly (number | undefined)[]): number | undefined => {
    const known = ends.filter((end) => end !== undefined);
    return known.length === 0 ? undefined : Math.min(...known);
  };
  const sent = earliest(links.map((link) => endMs(link.valid_to)));
  // Anchors cost time to read, and matter only where another certificate than the leaf ends first.
  if (sent === leafEndMs) return leafEndMs;
  const ends: (number | undefined)[] = [];
  for (const link of links) {
    ends.push(endMs(link.valid_to));
    const anchor = anchors.issuerOf(new X509Certificate(link.raw));
    if (anchor !== undefined) return earliest([...ends, endMs(anchor.validTo)]);
  }
  return sent;
}

/** The earliest end of all that the server sent; for a chain that was not verified because something in it has expired. */
export function sentEndMs(leaf: ChainLink): number | undefined {
  const ends = linksOf(leaf).flatMap((link) => endMs(link.valid_to) ?? []);
  return ends.length === 0 ? undefined : Math.min(...ends);
}

function linksOf(leaf: ChainLink): ChainLink[] {
  const links: ChainLink[] = [];
  const seen = new Set<ChainLink>();
  for (let link: ChainLink | undefined = leaf; link !== undefined; link = link.issuerCertificate) {
    if (seen.has(link) || links.length === MAX_LINKS) break;
    seen.add(link);
    links.push(link);
  }
  return links;
}

function endMs(text: string): number | undefined {
  const ms = Date.parse(text);
  return ms > 0 ? ms : undefined;
}
