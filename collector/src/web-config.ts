/**
 * Who may open a connection to a listener, and how: the web configuration file that Prometheus and its exporters share
 * (https://prometheus.io/docs/prometheus/latest/configuration/https/), with its names and meanings.
 *
 * It is stricter in this: TLS 1.2 is the oldest version, and ciphers have forward secrecy and authenticate (no CBC, no RSA key exchange). Answers are HTTP/1.1 whatever `http2` says.
 */
import { dirname, resolve } from 'node:path';
import type { SecureVersion } from 'node:tls';
import { z } from 'zod';
import { parseYamlFile, type Problem } from '@wanscope/shared/config';

const CLIENT_AUTH = [
  'NoClientCert',
  'RequestClientCert',
  'RequireAnyClientCert',
  'VerifyClientCertIfGiven',
  'RequireAndVerifyClientCert',
] as const;
export type ClientAuth = (typeof CLIENT_AUTH)[number];

/** Names as Go has them, which the format took over, and as OpenSSL has them. TLS 1.3 has no choice. */
const CIPHERS: Readonly<Record<string, string>> = {
  TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: 'ECDHE-ECDSA-AES128-GCM-SHA256',
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: 'ECDHE-RSA-AES128-GCM-SHA256',
  TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: 'ECDHE-ECDSA-AES256-GCM-SHA384',
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: 'ECDHE-RSA-AES256-GCM-SHA384',
  TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: 'ECDHE-ECDSA-CHACHA20-POLY1305',
  TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256: 'ECDHE-RSA-CHACHA20-POLY1305',
};
const TLS13_CIPHERS = ['TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256', 'TLS_AES_128_GCM_SHA256'];
const CURVES: Readonly<Record<string, string>> = {
  CurveP256: 'prime256v1',
  CurveP384: 'secp384r1',
  CurveP521: 'secp521r1',
  X25519: 'X25519',
};
const VERSIONS = { TLS12: 'TLSv1.2', TLS13: 'TLSv1.3' } as const satisfies Record<string, SecureVersion>;
/** Those that the format allows to be set. */
const HEADERS = [
  'Content-Security-Policy',
  'Strict-Transport-Security',
  'X-Content-Type-Options',
  'X-Frame-Options',
  'X-XSS-Protection',
] as const;

const choice = <const T extends readonly string[]>(values: T): z.ZodEnum<{ [K in T[number]]: K }> =>
  z.enum(values, { error: `must be one of ${values.join(', ')}` });
const namesOf = <T extends Readonly<Record<string, unknown>>>(table: T): (keyof T & string)[] => Object.keys(table);

const BCRYPT_RULE = 'must be a password hashed with bcrypt, such as `htpasswd -nBC 10 NAME` prints';
const bcryptHash = z.string({ error: BCRYPT_RULE }).regex(/^\$2[aby]\$\d{2}\$[./A-Za-z0-9]{53}$/, BCRYPT_RULE);
const version = choice(namesOf(VERSIONS));

const tlsSchema = z.strictObject({
  cert_file: z.string(),
  key_file: z.string(),
  client_auth_type: choice(CLIENT_AUTH).default('NoClientCert'),
  client_ca_file: z.string().optional(),
  client_allowed_sans: z.array(z.string().min(1)).default([]),
  min_version: version.default('TLS12'),
  max_version: version.default('TLS13'),
  cipher_suites: z.array(choice(namesOf(CIPHERS))).optional(),
  prefer_server_cipher_suites: z.boolean().default(true),
  curve_preferences: z.array(choice(namesOf(CURVES))).optional(),
});

const fileSchema = z.strictObject({
  tls_server_config: tlsSchema.optional(),
  http_server_config: z
    .strictObject({ http2: z.boolean().optional(), headers: z.partialRecord(choice(HEADERS), z.string()).default({}) })
    .optional(),
  basic_auth_users: z.record(z.string().min(1), bcryptHash).default({}),
});

export interface TlsConfig {
  readonly certFile: string;
  readonly keyFile: string;
  readonly clientCaFile: string | undefined;
  readonly clientAuth: ClientAuth;
  /** A client certificate must hold one of them; empty: any. */
  readonly clientAllowedSans: readonly string[];
  readonly minVersion: SecureVersion;
  readonly maxVersion: SecureVersion;
  /** As OpenSSL writes them. */
  readonly ciphers: string;
  readonly honorCipherOrder: boolean;
  readonly ecdhCurve: string | undefined;
}

export interface WebConfig {
  readonly tls: TlsConfig | undefined;
  readonly headers: Readonly<Record<string, string>>;
  /** Name to bcrypt hash, SECRET. */
  readonly users: ReadonlyMap<string, string>;
}

export const OPEN: WebConfig = { tls: undefined, headers: {}, users: new Map() };

/**
 * @param file files that it names are taken from its folder.
 * @throws InvalidConfiguration with every problem found.
 */
export function parseWebConfig(text: string, file: string): WebConfig {
  const { data, refuse } = parseYamlFile(text, file, fileSchema);
  const { tls_server_config: given, http_server_config: http, basic_auth_users: users } = data;
  const tls = given === undefined ? undefined : tlsOf(given, dirname(file));
  const problems: Problem[] = [];
  const add = (key: string, message: string): void => void problems.push({ path: ['tls_server_config', key], message });
  if (tls !== undefined) {
    const verifies = tls.clientAuth === 'VerifyClientCertIfGiven' || tls.clientAuth === 'RequireAndVerifyClientCert';
    if (verifies && tls.clientCaFile === undefined) add('client_auth_type', 'needs client_ca_file');
    if (!verifies && tls.clientCaFile !== undefined) {
      add(
        'client_ca_file',
        'has no use unless client_auth_type is VerifyClientCertIfGiven or RequireAndVerifyClientCert',
      );
    }
    if (tls.clientAllowedSans.length > 0 && tls.clientAuth !== 'RequireAndVerifyClientCert') {
      add('client_allowed_sans', 'has no use unless client_auth_type is RequireAndVerifyClientCert');
    }
    if (given!.min_version === 'TLS13' && given!.max_version === 'TLS12') add('min_version', 'is above max_version');
  }
  if (problems.length > 0) return refuse(problems);
  return { tls, headers: http?.headers ?? {}, users: new Map(Object.entries(users)) };
}

function tlsOf(given: z.output<typeof tlsSchema>, folder: string): TlsConfig {
  const { cipher_suites: ciphers, curve_preferences: curves, client_ca_file: clientCa } = given;
  return {
    certFile: resolve(folder, given.cert_file),
    keyFile: resolve(folder, given.key_file),
    clientCaFile: clientCa === undefined ? undefined : resolve(folder, clientCa),
    clientAuth: given.client_auth_type,
    clientAllowedSans: given.client_allowed_sans,
    minVersion: VERSIONS[given.min_version],
    maxVersion: VERSIONS[given.max_version],
    // What OpenSSL takes by itself includes CBC and RSA key exchange.
    ciphers: [...TLS13_CIPHERS, ...(ciphers ?? namesOf(CIPHERS)).map((name) => CIPHERS[name]!)].join(':'),
    honorCipherOrder: given.prefer_server_cipher_suites,
    ecdhCurve: curves?.map((name) => CURVES[name]!).join(':'),
  };
}
