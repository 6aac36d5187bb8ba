import { describe, expect, test } from 'vitest';
import { newSecret, type Askers, type Identity, type PlannedSession } from '@wanscope/shared';
import { plannedOf } from '@wanscope/shared/testing';
import { ssidClassOf } from './packet/ssid.ts';
import { PeerKeys } from './peer-keys.ts';

const HQ = { site: 'hq', probe: 'edge' };
const BRANCH = { site: 'branch', probe: 'edge' };

function keysOf(identity: Identity, secret = newSecret()): PeerKeys {
  const keys = new PeerKeys(identity);
  keys.use(secret);
  return keys;
}

function askersOf(...peers: readonly [Identity, PeerKeys][]): Askers {
  return { peers: peers.map(([identity, keys]) => ({ ...identity, agreementKey: keys.publicKey! })), only: false };
}

/** A UDP session of `sender` to `reflector`, by a plan that names a key. */
function sessionTo(sender: Identity, reflector: Identity, agreementKey: string): PlannedSession {
  const path = { srcSite: sender.site, src: sender.probe, dstSite: reflector.site, dst: reflector.probe };
  return plannedOf({ path, target: { agreementKey } });
}

const FIRST_SSID = ssidClassOf(BRANCH, HQ);

describe('two probes that are told each other’s public key', () => {
  const [hq, branch] = [keysOf(HQ), keysOf(BRANCH)];
  const sent = branch.withKey(sessionTo(BRANCH, HQ, hq.publicKey!)).target;
  hq.expect(askersOf([BRANCH, branch]));
  branch.expect(askersOf([HQ, hq]));

  test('agree on the key of what one sends and the other answers', () => {
    const [asker] = hq.askersOf(FIRST_SSID);
    expect(asker!.name).toBe('branch/edge');
    expect(Buffer.from(asker!.key!).toString('hex')).toBe(sent.stampKey);
    expect(sent.stampKey).toMatch(/^[0-9a-f]{64}$/);
  });

  test('have another key for the other direction', () => {
    const back = hq.withKey(sessionTo(HQ, BRANCH, branch.publicKey!)).target;
    expect(back.stampKey).not.toBe(sent.stampKey);
    const [asker] = branch.askersOf(ssidClassOf(HQ, BRANCH));
    expect(Buffer.from(asker!.key!).toString('hex')).toBe(back.stampKey);
  });

  test('find each other by every SSID of the class, and by no other', () => {
    expect(hq.askersOf(FIRST_SSID + 251 * 200)).toHaveLength(1);
    expect(hq.askersOf(FIRST_SSID + 1)).toEqual([]);
    expect(hq.askersOf(0)).toEqual([]);
  });

  test('do not tell the public key to whoever runs the session', () => {
    expect(sent).not.toHaveProperty('agreementKey');
    expect(sent.ssidClass).toBe(FIRST_SSID);
  });
});

test('the key pair is the same after each start, and another of another enrolment', () => {
  const secret = newSecret();
  expect(keysOf(HQ, secret).publicKey).toBe(keysOf(HQ, secret).publicKey);
  expect(keysOf(HQ).publicKey).not.toBe(keysOf(HQ).publicKey);
});

test('somebody else with the same name comes to another key', () => {
  const [hq, branch, impostor] = [keysOf(HQ), keysOf(BRANCH), keysOf(BRANCH)];
  hq.expect(askersOf([BRANCH, branch]));
  const forged = impostor.withKey(sessionTo(BRANCH, HQ, hq.publicKey!)).target.stampKey;
  expect(Buffer.from(hq.askersOf(FIRST_SSID)[0]!.key!).toString('hex')).not.toBe(forged);
});

test('without an enrolment a session has no key, and nobody is expected', () => {
  const nobody = new PeerKeys(BRANCH);
  const hq = keysOf(HQ);
  expect(nobody.publicKey).toBeUndefined();
  const { target } = nobody.withKey(sessionTo(BRANCH, HQ, hq.publicKey!));
  expect(target).not.toHaveProperty('stampKey');
  expect(target).not.toHaveProperty('agreementKey');
  nobody.expect(askersOf([HQ, hq]));
  expect(nobody.askersOf(ssidClassOf(HQ, BRANCH))).toEqual([]);
});

test('a public key with which nothing can be agreed is nobody’s', () => {
  const hq = keysOf(HQ);
  const nothing = Buffer.alloc(32).toString('base64url');
  hq.expect({ peers: [{ ...BRANCH, agreementKey: nothing }], only: true });
  expect(hq.askersOf(FIRST_SSID)[0]!.key).toBeUndefined();
  expect(hq.only).toBe(true);
  expect(hq.withKey(sessionTo(HQ, BRANCH, nothing)).target).not.toHaveProperty('stampKey');
});
