/**
 * Guards listeners by a web configuration: TLS, client certificates, passwords. The file and those it names are read again
 * when they change; a bad one is refused whole and the one before stays.
 */
import bcrypt from 'bcrypt';
import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https';
import { isIP } from 'node:net';
import { createSecureContext, type SecureContextOptions, type TLSSocket } from 'node:tls';
import { InvalidConfiguration } from '@wanscope/shared';
import { parseInThread, readConfigText } from './config-file.ts';
import { CONNECTION_REFUSALS, CONNECTION_TIMEOUTS, TLS_HANDSHAKE_MS } from './connections.ts';
import { FairQueue } from './fair-queue.ts';
import type { Logger } from './log.ts';
import { OPEN, parseWebConfig, type TlsConfig, type WebConfig } from './web-config.ts';

/** Passwords checked, most recent last. Each costs as much as its hash asks for, which is the point of it. */
const KEPT_CHECKS = 100;

export const WEB_REFUSALS = [
  'no_credentials',
  'wrong_password',
  'busy',
  'client_certificate',
  'host',
  ...CONNECTION_REFUSALS,
] as const;
export type WebRefusal = (typeof WEB_REFUSALS)[number];

export type Verdict =
  { readonly ok: true; readonly user: string | undefined } | { readonly ok: false; readonly cause: WebRefusal };

export class WebGuard {
  readonly #file: string | undefined;
  readonly #logger: Logger;
  readonly #servers = new Set<TlsServer>();
  readonly #passed = new Map<string, Buffer>();
  readonly #refusals = new Map<WebRefusal, number>(WEB_REFUSALS.map((cause) => [cause, 0]));
  #config: WebConfig;
  #stamp: string;
  #refreshing: Promise<void> | undefined;
  readonly #checks = new FairQueue({ ofName: 32, ofAddress: 64, inAll: 512 });

  /**
   * @param file undefined: everybody may connect, in clear.
   * @throws InvalidConfiguration
   */
  constructor(file: string | undefined, logger: Logger) {
    this.#file = file;
    this.#logger = logger;
    const own = stampOf([file]);
    this.#config = file === undefined ? OPEN : parseWebConfig(readConfigText(file), file);
    const { tls } = this.#config;
    this.#stamp = own + stampOfSecrets(tls);
    if (tls !== undefined) secretsOf(tls);
  }

  get headers(): Readonly<Record<string, string>> {
    return this.#config.headers;
  }

  get isEncrypted(): boolean {
    return this.#config.tls !== undefined;
  }

  /** True when requests must name a user. */
  get asksForPassword(): boolean {
    return this.#config.users.size > 0;
  }

  /** True when every request is of somebody known: by a password or a verified certificate. */
  get knowsClients(): boolean {
    return this.asksForPassword || this.#config.tls?.clientAuth === 'RequireAndVerifyClientCert';
  }

  /** Connections and requests refused since the start. */
  get refusals(): ReadonlyMap<WebRefusal, number> {
    return this.#refusals;
  }

  createServer(listener: RequestListener): Server | TlsServer {
    const { tls } = this.#config;
    if (tls === undefined) return createServer(CONNECTION_TIMEOUTS, listener);
    const asks = { requestCert: tls.clientAuth !== 'NoClientCert', rejectUnauthorized: false };
    const timeouts = { ...CONNECTION_TIMEOUTS, handshakeTimeout: TLS_HANDSHAKE_MS };
    const server = createTlsServer({ ...secretsOf(tls), ...asks, ...timeouts }, listener);
    server.on('secureConnection', (socket: TLSSocket) => {
      const now = this.#config.tls ?? tls;
      if (isWelcome(socket, now)) return;
      this.#refuse('client_certificate');
      socket.destroy();
    });
    this.#servers.add(server);
    server.on('close', () => this.#servers.delete(server));
    return server;
  }

  /**
   * Whether a request with this `Authorization` may go on, and whose it is.
   *
   * @param client where it comes from: clients take turns.
   */
  async admit(authorization: string | undefined, client = ''): Promise<Verdict> {
    if (!this.asksForPassword) return { ok: true, user: undefined };
    const given = credentialsOf(authorization);
    if (given === undefined) return this.#refuse('no_credentials');
    const { user, password } = given;
    const { users } = this.#config;
    const hash = users.get(user);
    const digest = createHash('sha256')
      .update(`${hash ?? ''}\0${password}`)
      .digest();
    const passed = hash === undefined ? undefined : this.#passed.get(user);
    if (passed !== undefined && timingSafeEqual(passed, digest)) return { ok: true, user };
    // One at a time. A name that does not exist takes as long as one that does.
    const compare = (): Promise<boolean> => bcrypt.compare(password, hash ?? [...users.values()][0]!);
    const isRight = await this.#checks.add(client, user, compare);
    if (isRight === undefined) return this.#refuse('busy');
    // The file may have changed meanwhile.
    if (!isRight || hash === undefined || this.#config.users.get(user) !== hash) return this.#refuse('wrong_password');
    this.#passed.delete(user);
    this.#passed.set(user, digest);
    if (this.#passed.size > KEPT_CHECKS) this.#passed.delete(this.#passed.keys().next().value!);
    return { ok: true, user };
  }

  /**
   * Looks whether a file has changed, and takes it: read beside the event loop, one at a time. To be called now and then; what
   * changes while it reads is for the next call.
   */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh().finally(() => (this.#refreshing = undefined));
    return this.#refreshing;
  }

  async #refresh(): Promise<void> {
    const file = this.#file;
    if (file === undefined) return;
    const own = stampOf([file]);
    const stamp = own + stampOfSecrets(this.#config.tls);
    if (stamp === this.#stamp) return;
    this.#stamp = stamp;
    try {
      const next = await parseInThread('web', readConfigText(file), file);
      const secrets = stampOfSecrets(next.tls);
      this.#take(next);
      this.#stamp = own + secrets;
      this.#logger.info({ file }, 'web configuration taken');
    } catch (error) {
      if (!(error instanceof InvalidConfiguration)) throw error;
      this.#logger.error({ problems: error.problems }, 'the web configuration was refused; the one before stays');
    }
  }

  #take(next: WebConfig): void {
    const before = this.#config.tls;
    if ((next.tls === undefined) !== (before === undefined) || next.tls?.clientAuth !== before?.clientAuth) {
      throw new InvalidConfiguration([
        `${this.#file}: TLS and client_auth_type cannot change while listeners are open: restart the collector`,
      ]);
    }
    if (next.users.size === 0 && this.asksForPassword) {
      throw new InvalidConfiguration([
        `${this.#file}: basic_auth_users cannot become empty while listeners are open: restart the collector`,
      ]);
    }
    if (next.tls !== undefined) {
      const secrets = secretsOf(next.tls);
      for (const server of this.#servers) server.setSecureContext(secrets);
    }
    const changed = [...this.#passed.keys()].filter((user) => next.users.get(user) !== this.#config.users.get(user));
    for (const user of changed) this.#passed.delete(user);
    this.#config = next;
  }

  /** Counts what was refused before it came here. */
  count(cause: WebRefusal): void {
    this.#refusals.set(cause, this.#refusals.get(cause)! + 1);
  }

  #refuse(cause: WebRefusal): Verdict {
    this.count(cause);
    return { ok: false, cause };
  }
}

function stampOfSecrets(tls: TlsConfig | undefined): string {
  return stampOf([tls?.certFile, tls?.keyFile, tls?.clientCaFile]);
}

/** Differs when a file has changed, or has been replaced. To be asked before the files are read. */
function stampOf(files: readonly (string | undefined)[]): string {
  return files
    .map((file) => {
      const found = file === undefined ? undefined : statSync(file, { throwIfNoEntry: false, bigint: true });
      return found === undefined ? '|' : `${found.ino} ${found.size} ${found.mtimeNs}|`;
    })
    .join('');
}

/** @throws InvalidConfiguration also when certificate and key do not belong together. */
function secretsOf(tls: TlsConfig): SecureContextOptions {
  const { certFile, keyFile, clientCaFile, minVersion, maxVersion, ciphers, honorCipherOrder, ecdhCurve } = tls;
  const options: SecureContextOptions = {
    cert: read(certFile, 'tls_server_config.cert_file'),
    key: read(keyFile, 'tls_server_config.key_file'),
    ...(clientCaFile === undefined ? {} : { ca: read(clientCaFile, 'tls_server_config.client_ca_file') }),
    minVersion,
    maxVersion,
    honorCipherOrder,
    ciphers,
    ...(ecdhCurve === undefined ? {} : { ecdhCurve }),
  };
  try {
    createSecureContext(options);
  } catch (error) {
    const what = error instanceof Error ? error.message : String(error);
    throw new InvalidConfiguration([`tls_server_config: ${certFile} with ${keyFile}: ${what}`]);
  }
  return options;
}

function read(file: string, what: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new InvalidConfiguration([
      `${what}: ${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
    ]);
  }
}

/** Name and password of HTTP's Basic scheme (RFC 7617). */
function credentialsOf(authorization: string | undefined): { user: string; password: string } | undefined {
  const encoded = /^basic ([A-Za-z0-9+/]{1,1024}={0,2})$/i.exec(authorization ?? '')?.[1];
  if (encoded === undefined) return undefined;
  const text = Buffer.from(encoded, 'base64').toString();
  const colon = text.indexOf(':');
  return colon < 1 ? undefined : { user: text.slice(0, colon), password: text.slice(colon + 1) };
}

function isWelcome(socket: TLSSocket, { clientAuth, clientAllowedSans }: TlsConfig): boolean {
  const certificate = socket.getPeerX509Certificate();
  switch (clientAuth) {
    case 'NoClientCert':
    case 'RequestClientCert':
      return true;
    case 'RequireAnyClientCert':
      return certificate !== undefined;
    case 'VerifyClientCertIfGiven':
      return certificate === undefined || socket.authorized;
    case 'RequireAndVerifyClientCert': {
      if (certificate === undefined || !socket.authorized) return false;
      if (clientAllowedSans.length === 0) return true;
      // A name with a comma in it is quoted, so that no part of one passes for another.
      const uris = new Set((certificate.subjectAltName ?? '').split(', '));
      return clientAllowedSans.some((allowed) => {
        if (isIP(allowed) !== 0) return certificate.checkIP(allowed) !== undefined;
        if (allowed.includes('://')) return uris.has(`URI:${allowed}`);
        if (allowed.includes('@')) return certificate.checkEmail(allowed, { subject: 'never' }) !== undefined;
        return certificate.checkHost(allowed, { subject: 'never', wildcards: false }) !== undefined;
      });
    }
  }
}
