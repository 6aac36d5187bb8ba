/** Where to listen: TCP, or a Unix socket. */
export type ListenAddress = { readonly host: string | undefined; readonly port: number } | { readonly path: string };

/** With clients that are known it is open to the network. */
export const DEFAULT_LISTEN = '127.0.0.1:9479';
export const DEFAULT_LISTEN_GUARDED = ':9479';

/** Whether others than this machine reach it. */
export function isOpenToNetwork(address: ListenAddress): boolean {
  return !('path' in address) && !/^(?:127\.\d+\.\d+\.\d+|::1|localhost)$/.test(address.host ?? '');
}

/** `host:port`, `:port`, `[v6]:port` or `unix:/path`; undefined when it is none of them. */
export function parseListenAddress(text: string): ListenAddress | undefined {
  if (text.startsWith('unix:')) return text.length > 5 ? { path: text.slice(5) } : undefined;
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const port = Number(match[3]);
  if (port > 65_535) return undefined;
  const host = match[1] ?? match[2];
  return { host: host === '' ? undefined : host, port };
}
