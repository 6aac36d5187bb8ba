import { InvalidConfiguration } from '@wanscope/shared';
import { describe, expect, it } from 'vitest';
import { parseWebConfig } from './web-config.ts';

/** Of the right shape. */
const HASH = '$2b$04$abcdefghijklmnopqrstuuMnVqPq7XJ1Q0B2C3D4E5F6G7H8I9J0K';

function problemsOf(text: string): readonly string[] {
  try {
    parseWebConfig(text, 'web.yaml');
  } catch (error) {
    if (error instanceof InvalidConfiguration) return error.problems;
    throw error;
  }
  return [];
}

describe('a web configuration', () => {
  it('may be empty: in clear, for everybody', () => {
    expect(parseWebConfig('', 'web.yaml')).toEqual({ tls: undefined, headers: {}, users: new Map() });
  });

  it('names its files from its own folder', () => {
    const { tls } = parseWebConfig('tls_server_config: { cert_file: a.pem, key_file: /k/b.pem }', '/etc/wan/web.yaml');
    expect(tls).toMatchObject({ certFile: '/etc/wan/a.pem', keyFile: '/k/b.pem', clientAuth: 'NoClientCert' });
    expect(tls).toMatchObject({
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.3',
      ciphers: expect.stringMatching(/^(?:(?:TLS_|ECDHE-)[A-Z0-9_-]*(?:GCM|CHACHA20)[A-Z0-9_-]*(?::|$))+$/) as string,
    });
  });

  it('has the names of Go for ciphers and curves', () => {
    const { tls } = parseWebConfig(
      `tls_server_config:
  cert_file: a
  key_file: b
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
  curve_preferences: [X25519, CurveP256]`,
      'web.yaml',
    );
    expect(tls!.ciphers.split(':').at(-1)).toBe('ECDHE-RSA-AES128-GCM-SHA256');
    expect(tls!.ecdhCurve).toBe('X25519:prime256v1');
  });

  it('is refused whole, with the line and what is allowed', () => {
    expect(problemsOf('tls_server_config:\n  cert_file: a\n  key_file: b\n  client_auth_type: Maybe\n')).toEqual([
      'web.yaml:4: tls_server_config.client_auth_type: must be one of NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert',
    ]);
    expect(problemsOf('basic_auth_users:\n  alice: secret\n')[0]).toMatch(
      /^web.yaml:2: basic_auth_users.alice: must be/,
    );
    expect(problemsOf('tls: {}')[0]).toMatch(/^web.yaml:1: /);
    expect(problemsOf('tls_server_config: { cert_file: a }')[0]).toMatch(/key_file/);
  });

  it.each([
    ['verifies without an authority', 'client_auth_type: RequireAndVerifyClientCert', 'needs client_ca_file'],
    ['has an authority that nobody asks', 'client_ca_file: c', 'has no use unless'],
    ['has names that nobody checks', 'client_allowed_sans: [a]', 'has no use unless'],
    ['ends before it begins', 'min_version: TLS13\n  max_version: TLS12', 'is above max_version'],
    ['is older than TLS 1.2', 'min_version: TLS11', 'must be one of TLS12, TLS13'],
  ])('is refused when it %s', (_name, line, message) => {
    const [problem] = problemsOf(`tls_server_config:\n  cert_file: a\n  key_file: b\n  ${line}\n`);
    expect(problem).toContain(message);
  });

  it('does not repeat a password that was given in clear', () => {
    expect(problemsOf('basic_auth_users: { alice: hunter2 }').join()).not.toContain('hunter2');
    expect(parseWebConfig(`basic_auth_users: { alice: ${HASH} }`, 'f').users.get('alice')).toBe(HASH);
  });
});
