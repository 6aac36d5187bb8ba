import { createUser, decode, fromSeed, type Account, type ScopedUser } from '@nats-io/jwt';
import {
  claimProofOf,
  decodeClaim,
  decodeClaimAnswer,
  decodeRoster,
  encodeClaimRequest,
  newSecret,
  signerOf,
  verifierOf,
  type Claim,
  type ClaimAnswer,
  type ClaimRequest,
  type Identity,
} from '@wanscope/shared';
import { beforeAll, describe, expect, test } from 'vitest';
import { answerClaim, issueClaims, parseClaimList, type AnsweredClaim } from './claims.ts';
import { enrol, FILES, filesOf, newFleet, parseFleet, retire, revoke, rotate, type Fleet } from './fleet.ts';

const NOON = Date.UTC(2026, 0, 5, 12);
const DAY_MS = 86_400_000;
const EDGE = { site: 'hq', probe: 'edge' };
const BRANCH = { site: 'branch-1', probe: 'edge' };
let empty: Fleet;

beforeAll(async () => {
  empty = await newFleet({
    name: 'test',
    certificates: undefined,
    broker: { path: '/etc/wanscope', resolverDir: '/data/accounts' },
    nowMs: NOON,
  });
});

/** What a device makes for itself. */
interface Device {
  readonly secret: string;
  readonly user: string;
}
const device = (): Device => ({ secret: newSecret(), user: createUser().getPublicKey() });

async function handOut(fleet: Fleet, ...names: readonly Identity[]): Promise<{ fleet: Fleet; claims: Claim[] }> {
  const rows = names.map((name) => ({ ...name, expiresAtMs: NOON + 7 * DAY_MS }));
  const { fleet: changed, handedOut } = await issueClaims(fleet, {
    rows,
    servers: ['tls://nats.example.com:4222'],
    nowMs: NOON,
  });
  return { fleet: changed, claims: handedOut.map(({ text }) => decodeClaim(text)) };
}

function requestOf(claim: Claim, { secret, user }: Device, step: ClaimRequest['step'] = 'claim'): ClaimRequest {
  const { site, probe } = claim;
  return { v: 1, site, probe, claim: signerOf(claim.secret).publicKey, user, key: signerOf(secret).publicKey, step };
}

async function make(
  fleet: Fleet,
  claim: Claim,
  by: Device,
  { nowMs = NOON, step = 'claim' }: { readonly nowMs?: number; readonly step?: ClaimRequest['step'] } = {},
): Promise<AnsweredClaim & { readonly said: ClaimAnswer | undefined }> {
  const request = requestOf(claim, by, step);
  const bytes = encodeClaimRequest(request, signerOf(by.secret), claim.secret);
  const answered = await answerClaim(fleet, claim, bytes, nowMs);
  const said = answered.answer && decodeClaimAnswer(answered.answer, request, verifierOf(claim.issuer));
  return { ...answered, said };
}

const refused = (cause: string) => ({ kind: 'refused', cause });
const rosterOf = (fleet: Fleet) => decodeRoster(filesOf(fleet).get(FILES.roster)!, 'roster').probes;
const accountOf = (fleet: Fleet): Partial<Account> => decode<Account>(fleet.account.jwt).nats;

describe('a list', () => {
  test('has a site and a probe a row, and when the claim ends', () => {
    const text = '\uFEFFProbe,site,expires\r\nr1,"hq",2d\r\n\r\nr2,branch-1,2026-02-01\r\nr3,branch-2,\r\n';
    expect(parseClaimList(text, NOON, 7 * DAY_MS)).toEqual([
      { site: 'hq', probe: 'r1', expiresAtMs: NOON + 2 * DAY_MS },
      { site: 'branch-1', probe: 'r2', expiresAtMs: Date.UTC(2026, 1, 1) },
      { site: 'branch-2', probe: 'r3', expiresAtMs: NOON + 7 * DAY_MS },
    ]);
  });

  test.each([
    ['', /^line 1: the head/],
    ['a,b\nhq,edge', /^line 1: the head/],
    ['site,site,probe\n', /^line 1: the head/],
    ['site,probe\n', /^the list names no probe$/],
    ['site,probe\nHQ,edge\nhq,a b', /^line 2: "HQ\/edge": both.*\nline 3: "hq\/a b"/],
    ['site,probe\nhq,edge,1d', /^line 2: has 3 columns, the head has 2$/],
    ['site,probe\nhq,edge\nhq,edge', /^line 3: hq\/edge is in it twice$/],
    ['site,probe,expires\nhq,edge,soon', /^line 2: "soon" is neither/],
    ['site,probe,expires\nhq,edge,2026-01-05', /^line 2: "2026-01-05" is over$/],
  ])('with something wrong is refused whole: %j', (text, message) => {
    expect(() => parseClaimList(text, NOON, DAY_MS)).toThrow(message);
  });
});

describe('a claim that is handed out', () => {
  test('has a user of the broker that can make it and nothing else, and ends with it', async () => {
    const { fleet, claims } = await handOut(empty, EDGE, BRANCH);
    const [edge] = claims as [Claim];
    const user = decode<ScopedUser>(edge.jwt);
    expect(user.exp).toBe((NOON + 7 * DAY_MS) / 1_000);
    expect(user.nats.tags).toEqual(['site:hq', 'probe:edge']);
    const keys = accountOf(fleet).signing_keys as { key: string; role: string; template: object }[];
    const { role, template } = keys.find(({ key }) => key === user.iss)!;
    expect(role).toBe('claim');
    expect(template).toMatchObject({
      pub: { allow: ['wan.v1.claim.{{tag(site)}}.{{tag(probe)}}'] },
      sub: { allow: ['_INBOX.wan-claim.{{tag(site)}}.{{tag(probe)}}.>'] },
    });
  });

  test('is in no file of the fleet: who reads them all cannot make it', async () => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const text = [...filesOf(fleet).values()].join('\n');
    expect(text).not.toContain(claims[0]!.secret);
    expect(text).not.toContain(claims[0]!.seed);
    expect(parseFleet(filesOf(fleet).get(FILES.fleet)!, 'fleet')).toEqual(fleet);
  });

  test('takes the place of one for the same name', async () => {
    const first = await handOut(empty, EDGE);
    const second = await handOut(first.fleet, EDGE);
    expect((await make(second.fleet, first.claims[0]!, device())).outcome).toEqual(refused('revoked'));
    expect((await make(second.fleet, second.claims[0]!, device())).outcome).toMatchObject({ kind: 'granted' });
  });
});

describe('a claim that is made', () => {
  test('puts the key of the device into the roster and is answered with its user', async () => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const by = device();
    const { fleet: after, said, outcome } = await make(fleet, claims[0]!, by);
    const key = signerOf(by.secret).publicKey;
    expect(outcome).toEqual({ kind: 'granted', isAgain: false, revoked: [], key });
    expect(rosterOf(after)).toEqual([{ ...EDGE, key, user: by.user, addedAtMs: NOON }]);
    if (said?.status !== 'granted') throw new Error('not granted');
    const user = decode<ScopedUser>(said.jwt);
    expect(user.sub).toBe(by.user);
    expect(user.nats.tags).toEqual(['site:hq', 'probe:edge']);
    expect(said.collectorKeys).toEqual(fleet.messageKeys.map((secret) => signerOf(secret).publicKey));
  });

  test('can be made again by the same device, which did not hear of it, and by no other', async () => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const [by, other] = [device(), device()];
    const { fleet: after } = await make(fleet, claims[0]!, by);
    const again = await make(after, claims[0]!, by, { nowMs: NOON + 1_000 });
    expect(again.outcome).toMatchObject({ kind: 'granted', isAgain: true, revoked: [] });
    expect(rosterOf(again.fleet)).toEqual(rosterOf(after));
    expect((await make(after, claims[0]!, other)).outcome).toEqual(refused('used'));
    // The same user with another key, and the other way round, is another device.
    expect((await make(after, claims[0]!, { ...by, secret: newSecret() })).outcome).toEqual(refused('used'));
    expect((await make(after, claims[0]!, { ...by, user: other.user })).outcome).toEqual(refused('used'));
  });

  test('revokes at once whoever had the name before', async () => {
    const before = await enrol(empty, { identity: EDGE, nowMs: NOON, expiresAtMs: undefined, replace: false });
    const other = await enrol(before.fleet, { identity: BRANCH, nowMs: NOON, expiresAtMs: undefined, replace: false });
    const { fleet, claims } = await handOut(other.fleet, EDGE);
    expect(rosterOf(fleet).every(({ revokedAtMs }) => revokedAtMs === undefined)).toBe(true);
    const { fleet: after, outcome } = await make(fleet, claims[0]!, device(), { nowMs: NOON + 5_000 });
    const [old] = rosterOf(after);
    expect(old).toMatchObject({ ...EDGE, revokedAtMs: NOON + 5_000 });
    expect(outcome).toMatchObject({ revoked: [old!.key] });
    expect(accountOf(after).revocations).toEqual({ [old!.user]: NOON / 1_000 + 5 });
    expect(rosterOf(after).filter(({ revokedAtMs }) => revokedAtMs === undefined)).toHaveLength(2);
  });

  test.each([
    [
      'after its time',
      async (fleet: Fleet, claim: Claim) => make(fleet, claim, device(), { nowMs: NOON + 7 * DAY_MS }),
      'expired',
    ],
    [
      'that nobody handed out',
      async (fleet: Fleet, claim: Claim) => make(fleet, { ...claim, secret: newSecret() }, device()),
      'unknown',
    ],
    ['in a fleet without claims', async (_fleet: Fleet, claim: Claim) => make(empty, claim, device()), 'unknown'],
    [
      'for another name',
      async (fleet: Fleet, claim: Claim) => make(fleet, { ...claim, ...BRANCH }, device()),
      'wrong_identity',
    ],
  ])('%s is refused, and nothing is changed', async (_what, attempt, cause) => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const { outcome, fleet: after } = await attempt(fleet, claims[0]!);
    expect(outcome).toEqual(refused(cause));
    expect(rosterOf(after)).toEqual([]);
  });

  test('by somebody who knows its public key only, or in the name of a key that he has not, is refused', async () => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const by = device();
    const request = requestOf(claims[0]!, by);
    const forged = encodeClaimRequest(request, signerOf(by.secret), newSecret());
    expect((await answerClaim(fleet, EDGE, forged, NOON)).outcome).toEqual(refused('bad_signature'));
    const stolen = encodeClaimRequest(request, signerOf(newSecret()), claims[0]!.secret);
    expect((await answerClaim(fleet, EDGE, stolen, NOON)).outcome).toEqual(refused('bad_signature'));
    const noUser = { secret: by.secret, user: `U${'B'.repeat(55)}` };
    expect((await make(fleet, claims[0]!, noUser)).outcome).toEqual(refused('malformed'));
    expect((await answerClaim(fleet, EDGE, Buffer.from('{}'), NOON)).outcome).toEqual(refused('malformed'));
    const elsewhere = encodeClaimRequest(request, signerOf(by.secret), claims[0]!.secret);
    expect((await answerClaim(fleet, BRANCH, elsewhere, NOON)).outcome).toEqual(refused('wrong_identity'));
  });

  test('in the name of a user key that the device does not have is refused', async () => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const [by, user, other] = [device(), createUser(), createUser()];
    const named = requestOf(claims[0]!, { ...by, user: user.getPublicKey() });
    const outcomeWith = async (request: ClaimRequest): Promise<unknown> => {
      const bytes = encodeClaimRequest(request, signerOf(by.secret), claims[0]!.secret);
      return (await answerClaim(fleet, EDGE, bytes, NOON)).outcome;
    };
    const proofBy = (pair: typeof user, of = named): string =>
      Buffer.from(pair.sign(claimProofOf(of))).toString('base64url');
    expect(await outcomeWith({ ...named, userProof: proofBy(other) })).toEqual(refused('bad_signature'));
    // Of this user's key, for another probe.
    const elsewhere = { ...named, ...BRANCH };
    expect(await outcomeWith({ ...named, userProof: proofBy(user, elsewhere) })).toEqual(refused('bad_signature'));
    expect(await outcomeWith({ ...named, userProof: proofBy(user) })).toMatchObject({ kind: 'granted' });
  });

  test('in the name of a key that anybody else of the fleet has or had is refused, and revoking harms no one', async () => {
    const { fleet: first, claims } = await handOut(empty, EDGE, BRANCH);
    const victim = device();
    const { fleet: enrolled } = await make(first, claims[0]!, victim);
    const left = await revoke(enrolled, EDGE, NOON);
    const userOf = (seed: string): string => fromSeed(Buffer.from(seed)).getPublicKey();
    const { collector, system, claims: desk } = enrolled;
    const users: readonly (readonly [string, Fleet, string])[] = [
      ['a probe’s', enrolled, victim.user],
      ['a revoked probe’s', left, victim.user],
      ['the collector’s', enrolled, userOf(collector.seed)],
      ['the issuer’s', enrolled, userOf(desk!.issuer.seed)],
      ['the administrator’s', enrolled, userOf(system.user.seed)],
      ['another claim’s', enrolled, userOf(claims[0]!.seed)],
      [
        'a leaf node’s',
        { ...enrolled, leaves: { ...enrolled.leaves!, sites: [{ site: 'x', user: device().user, addedAtMs: NOON }] } },
        '',
      ],
    ];
    for (const [whose, fleet, user] of users) {
      const by = { ...device(), user: user === '' ? fleet.leaves!.sites[0]!.user : user };
      const { outcome, fleet: after } = await make(fleet, claims[1]!, by);
      expect(outcome, whose).toEqual(refused('bad_signature'));
      expect(after, whose).toBe(fleet);
    }
    const twice = await make(enrolled, claims[1]!, { ...device(), secret: victim.secret });
    expect(twice.outcome).toEqual(refused('bad_signature'));
  });

  test('that named the collector’s key before that was refused does not take it along when it is revoked', async () => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const { fleet: enrolled } = await make(fleet, claims[0]!, device());
    const collectorUser = fromSeed(Buffer.from(fleet.collector.seed)).getPublicKey();
    const probes = enrolled.probes.map((probe) => ({ ...probe, user: collectorUser }));
    const after = await revoke({ ...enrolled, probes }, EDGE, NOON);
    expect(rosterOf(after)[0]!.revokedAtMs).toBe(NOON);
    expect(accountOf(after).revocations ?? {}).toEqual({});
  });

  test('is not made again once its probe was revoked', async () => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const by = device();
    const { fleet: after } = await make(fleet, claims[0]!, by);
    expect((await make(await revoke(after, EDGE, NOON), claims[0]!, by)).outcome).toEqual(refused('revoked'));
    // Nor is one that was open when the probe was.
    expect((await make(await revoke(fleet, EDGE, NOON), claims[0]!, by)).outcome).toEqual(refused('revoked'));
  });

  test('again after the signing key was changed is signed by the new one, and stays when the old is retired', async () => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const by = device();
    const { fleet: after } = await make(fleet, claims[0]!, by);
    const { fleet: again } = await make(await rotate(after, NOON), claims[0]!, by);
    expect(rosterOf(await retire(again, NOON))[0]!.revokedAtMs).toBeUndefined();
    expect(rosterOf(await retire(await rotate(after, NOON), NOON))[0]!.revokedAtMs).toBe(NOON);
  });
});

describe('a device that has its answer on disk', () => {
  test('says so, and the user of the claim is shut out until it would have ended', async () => {
    const { fleet, claims } = await handOut(empty, EDGE, BRANCH);
    const [edge, branch] = claims as [Claim, Claim];
    const [one, two] = [device(), device()];
    const { fleet: first } = await make(fleet, edge, one);
    const settled = await make(first, edge, one, { step: 'stored', nowMs: NOON + 2_000 });
    expect(settled.outcome).toEqual({ kind: 'settled' });
    const user = decode(edge.jwt).sub;
    expect(accountOf(settled.fleet).revocations).toEqual({ [user]: NOON / 1_000 + 2 });
    // Past its end the broker lets it in no more, without a word in the account.
    const late = NOON + 8 * DAY_MS;
    const { fleet: second } = await make(settled.fleet, branch, two);
    const last = await make(second, branch, two, { step: 'stored', nowMs: late });
    expect(Object.keys(accountOf(last.fleet).revocations!)).toEqual([decode(branch.jwt).sub]);
  });

  test('is believed by nobody else, nor before it has made the claim', async () => {
    const { fleet, claims } = await handOut(empty, EDGE);
    const by = device();
    expect((await make(fleet, claims[0]!, by, { step: 'stored' })).outcome).toEqual(refused('unknown'));
    const { fleet: after } = await make(fleet, claims[0]!, by);
    expect((await make(after, claims[0]!, device(), { step: 'stored' })).outcome).toEqual(refused('used'));
  });
});
