import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  claimProofOf,
  encodeClaimAnswer,
  newSecret,
  readClaimRequest,
  signerOf,
  verifierOf,
  type Claim,
  type ClaimAnswer,
  type ClaimRequest,
} from '@wanscope/shared';
import { FakeClock } from '@wanscope/shared/testing';
import { nkeys } from 'nats';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BusError, type Bus, type ClaimDesk } from './bus.ts';
import { Claiming, EnrolmentStore, LateBus } from './enrolling.ts';

const EDGE = { site: 'hq', probe: 'edge' };
const ISSUER = signerOf(newSecret());
const COLLECTOR = signerOf(newSecret()).publicKey;
const claimOf = (): Claim => ({
  v: 1,
  ...EDGE,
  secret: newSecret(),
  jwt: 'a.b.c',
  seed: `SU${'A'.repeat(56)}`,
  issuer: ISSUER.publicKey,
  collectorKeys: [COLLECTOR],
  expiresAtMs: 1,
  servers: ['tls://nats.example.com:4222'],
});

interface UserKey {
  verify(octets: Uint8Array, signature: Uint8Array): boolean;
}
const userKey = (publicKey: string): UserKey => (nkeys as { fromPublic(key: string): UserKey }).fromPublic(publicKey);

type Reply = (request: ClaimRequest) => ClaimAnswer | Error;
const grant: Reply = ({ user, key }) => ({
  v: 1,
  ...EDGE,
  user,
  key,
  status: 'granted',
  jwt: `user.of.${user}`,
  collectorKeys: [COLLECTOR],
});
const refuse: Reply = ({ user, key }) => ({ v: 1, ...EDGE, user, key, status: 'refused', cause: 'used' });

let directory: string;
let clock: FakeClock;
let asked: ClaimRequest[];
let warned: string[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'wan-enrol-'));
  clock = new FakeClock();
  asked = [];
  warned = [];
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const nothing = (): void => undefined;
const log = () => ({
  debug: nothing,
  info: nothing,
  warn: (_fields: object, message: string) => void warned.push(message),
  error: (_fields: object, message: string) => void warned.push(message),
});
const store = (path = directory): EnrolmentStore =>
  new EnrolmentStore(path, EDGE, log(), () => Date.UTC(2026, 0, 5, 12));
const file = (): string => join(directory, 'enrolment-hq-edge.json');

/** A desk that answers by these replies, the last one for ever. */
function claiming(claim: Claim, replies: Reply[], path = directory): Claiming {
  const desk: ClaimDesk = {
    request: (bytes) => {
      const { request, isBy } = readClaimRequest(bytes, EDGE);
      expect(isBy(verifierOf(signerOf(claim.secret).publicKey))).toBe(true);
      asked.push(request);
      // What the device will sign with is on its disk before anybody hears of it.
      expect(existsSync(file())).toBe(true);
      const answer = (replies.length > 1 ? replies.shift()! : replies[0]!)(request);
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(encodeClaimAnswer(answer, ISSUER));
    },
    tell: (bytes) => {
      asked.push(readClaimRequest(bytes, EDGE).request);
      return Promise.resolve();
    },
    close: () => Promise.resolve(),
  };
  return new Claiming({
    claim,
    store: store(path),
    open: () => Promise.resolve(desk),
    clock,
    log: log(),
    random: () => 0.5,
  });
}

/** Lets what waits for promises go on, and time after it. */
async function advance(ms: number): Promise<void> {
  for (let i = 0; i < 20; i += 1) await Promise.resolve();
  clock.advance(ms);
  for (let i = 0; i < 20; i += 1) await Promise.resolve();
}

describe('a claim', () => {
  test('that is granted becomes an enrolment by keys that were made here, told and kept', async () => {
    const claim = claimOf();
    const running = claiming(claim, [grant]);
    const enrolment = await running.enrolment();
    expect(running.state).toBe('enrolled');
    expect(enrolment).toMatchObject({ ...EDGE, jwt: `user.of.${asked[0]!.user}`, servers: claim.servers });
    expect(signerOf(enrolment!.secret).publicKey).toBe(asked[0]!.key);
    expect(asked.map(({ step }) => step)).toEqual(['claim', 'stored']);
    for (const request of asked) {
      const proof = Buffer.from(request.userProof!, 'base64url');
      expect(userKey(request.user).verify(claimProofOf(request), proof)).toBe(true);
    }
    expect(statSync(file()).mode & 0o777).toBe(0o600);
    expect(store().granted()?.enrolment).toEqual(enrolment);
    // Neither the claim's secret nor its user's is kept.
    const text = readFileSync(file(), 'utf8');
    expect(text).not.toContain(claim.secret);
    expect(text).not.toContain(claim.seed);
  });

  test('that was granted is not made again by a later start', async () => {
    const claim = claimOf();
    const first = await claiming(claim, [grant]).enrolment();
    asked = [];
    expect(await claiming(claim, [refuse]).enrolment()).toEqual(first);
    expect(asked).toEqual([]);
  });

  test('whose answer was lost is made again with the same keys, also by a later start', async () => {
    const claim = claimOf();
    const running = claiming(claim, [() => new BusError('503')]);
    const pending = running.enrolment();
    await advance(1_999);
    expect(asked).toHaveLength(1);
    await advance(1);
    expect(asked).toHaveLength(2);
    running.close();
    expect(await pending).toBeUndefined();
    await claiming(claim, [grant]).enrolment();
    expect(new Set(asked.map(({ key, user }) => `${key} ${user}`)).size).toBe(1);
  });

  test('after another is made with other keys', async () => {
    await claiming(claimOf(), [grant]).enrolment();
    await claiming(claimOf(), [grant]).enrolment();
    const [first, , second] = asked;
    expect(first!.key).not.toBe(second!.key);
    expect(first!.user).not.toBe(second!.user);
  });

  test('that is refused leaves a device by what an earlier one gave it', async () => {
    const before = await claiming(claimOf(), [grant]).enrolment();
    const again = claiming(claimOf(), [refuse]);
    expect(await again.enrolment()).toEqual(before);
    expect(warned.some((line) => line.includes('somebody else has used this claim'))).toBe(true);
    expect(store().granted()?.enrolment).toEqual(before);
  });

  test('that is refused to a device without keys is tried seldom', async () => {
    const running = claiming(claimOf(), [refuse, grant]);
    const pending = running.enrolment();
    await advance(299_999);
    expect(running.state).toBe('refused');
    expect(running.refusal).toBe('used');
    expect(asked).toHaveLength(1);
    await advance(1);
    expect((await pending)?.site).toBe('hq');
  });

  test('whose answer is by somebody else is not believed', async () => {
    const running = claiming(claimOf(), [
      ({ user, key }) => ({
        v: 1,
        ...EDGE,
        user: user.replace(/.$/, user.endsWith('A') ? 'B' : 'A'),
        key,
        status: 'refused',
        cause: 'used',
      }),
    ]);
    const pending = running.enrolment();
    await advance(0);
    expect(running.state).toBe('claiming');
    expect(warned[0]).toMatch(/^not enrolled yet: the answer cannot be believed/);
    running.close();
    expect(await pending).toBeUndefined();
  });

  test('is not made where its keys cannot be kept: it would be used for nothing', async () => {
    const blocked = join(directory, 'file');
    writeFileSync(blocked, '');
    const running = claiming(claimOf(), [grant], join(blocked, 'below'));
    const pending = running.enrolment();
    await advance(0);
    expect(asked).toEqual([]);
    expect(warned.some((line) => line.includes('WAN_STATE_DIR cannot be written'))).toBe(true);
    running.close();
    expect(await pending).toBeUndefined();
  });
});

test('a file that somebody damaged is said to be, and is no enrolment', () => {
  for (const text of [
    '',
    '{',
    '[]',
    '{"v":1,"granted":{"claim":"x"}}',
    '{"v":1,"granted":{"claim":"x","line":"wan1_"}}',
  ]) {
    writeFileSync(file(), text);
    warned = [];
    expect(store().granted(), text).toBeUndefined();
    expect(warned[0], text).toMatch(/damaged|cannot be read/);
  }
  chmodSync(directory, 0o700);
});

test('the enrolment that c3f0acb kept is read', () => {
  copyFileSync(new URL('fixtures/enrolment-c3f0acb.json', import.meta.url), file());
  const { claim, enrolment } = store().granted()!;
  expect([claim, enrolment.site, enrolment.probe]).toEqual(['claim-of-c3f0acb', 'hq', 'edge']);
  expect(warned).toEqual([]);
});

test('a file that cannot be read stays as it is, and beside the keys that take its place', () => {
  const later = '{"v":2,"granted":{"by":"a later release"}}';
  writeFileSync(file(), later);
  const one = store();
  expect(one.granted()).toBeUndefined();
  expect(readFileSync(file(), 'utf8')).toBe(later);
  const { seed } = one.keysFor('claim');
  expect(readFileSync(`${file()}.unreadable-20260105T120000000Z`, 'utf8')).toBe(later);
  expect(store().keysFor('claim').seed).toBe(seed);
});

test('a bus that begins late has everything that was asked of it before', async () => {
  const late = new LateBus();
  const heard: boolean[] = [];
  const subjects: string[] = [];
  const published: unknown[] = [];
  const listeners: ((connected: boolean) => void)[] = [];
  late.subscribe('before', nothing);
  late.onStatus((connected) => heard.push(connected));
  expect(late.connected).toBe(false);
  await expect(late.publish('x', new Uint8Array())).rejects.toThrow('not enrolled yet');
  const bus: Bus = {
    connected: false,
    publish: (subject, _bytes, mark) => {
      published.push([subject, mark]);
      return Promise.resolve();
    },
    subscribe: (subject) => void subjects.push(subject),
    onStatus: (listener) => void listeners.push(listener),
    close: () => Promise.resolve(),
  };
  late.begin(bus);
  late.subscribe('after', nothing);
  listeners[0]!(true);
  expect(subjects).toEqual(['before', 'after']);
  expect(heard).toEqual([true]);
  const mark = { bootId: '00000000000000b1', number: 7 };
  await late.publish('x', new Uint8Array(), mark);
  expect(published).toEqual([['x', mark]]);
});
