/** A host name as TLS names it: without the dot that ends a name that is not to be completed (RFC 6066 section 3). */
export function serverName(host: string): string {
  return host.replace(/\.$/, '');
}
