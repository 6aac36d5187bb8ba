/**
 * Which names a request may give a listener that asks for no password: a page of another site whose name was pointed at this address
 * (DNS rebinding) gives its own. An address cannot be pointed elsewhere, and a name without a dot is no name of the Internet.
 */
import { isIP } from 'node:net';

export type IsOwnHost = (host: string | undefined) => boolean;

/** @param names further ones, in any case. */
export function ownHosts(names: readonly string[]): IsOwnHost {
  const known = new Set(names.map((name) => name.toLowerCase()));
  return (host) => {
    // HTTP/1.0; every browser names a host.
    if (host === undefined) return true;
    const name = /^(\[[^\]]*\]|[^:]*)(?::\d{1,5})?$/.exec(host)?.[1]?.toLowerCase().replace(/\.$/, '');
    if (name === undefined || name === '') return false;
    if (name.startsWith('[')) return isIP(name.slice(1, -1)) === 6;
    return isIP(name) === 4 || !name.includes('.') || name.endsWith('.localhost') || known.has(name);
  };
}
