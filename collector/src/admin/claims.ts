/**
 * Claims of a fleet: tokens that are handed out by the list, and what is answered to the devices that show them. Pure but for
 * random keys, like the fleet itself.
 */
import { createAccount, createUser, encodeUser, fromPublic, fromSeed } from '@nats-io/jwt';
import {
  claimProofOf,
  encodeClaim,
  encodeClaimAnswer,
  formatIdentity,
  isToken,
  newSecret,
  isWallMs,
  parseDurationNs,
  readClaimRequest,
  RejectedMessage,
  signerOf,
  verifierOf,
  type ClaimAnswer,
  type ClaimRefusal,
  type ClaimRequest,
  type Identity,
} from '@wanscope/shared';
import {
  accountOf,
  activeOf,
  bytesOf,
  collectorKeysOf,
  credsOf,
  FleetError,
  isOpenClaim,
  ownUsersOf,
  scopedUser,
  seedOf,
  withAccount,
  withProbe,
  withRevoked,
  type Fleet,
  type FleetClaims,
  type IssuedClaim,
} from './fleet.ts';

const NS_PER_MS = 1e6;
const MAX_LIST_CHARACTERS = 4 * 1_024 * 1_024;
const MAX_ROWS = 10_000;
/** A claim and the one that took its place. */
const MAX_USERS_ASKED_FOR = 2;
/** Users of settled claims that are shut out at once; more of them end with their claims. The account is one message. */
const MAX_SHUT_OUT = 1_000;
/** How long a claim is known after it has ended: what comes of it is told by its cause until then. */
const REMEMBERED_MS = 90 * 86_400_000;

export interface ClaimRow extends Identity {
  readonly expiresAtMs: number;
}

/**
 * The rows of a list: `site,probe` and, where the head names it, `expires`, a duration such as `7d` or a time in ISO 8601.
 *
 * @throws FleetError with every problem by line; a list with one is refused whole.
 */
export function parseClaimList(text: string, nowMs: number, lifeMs: number): readonly ClaimRow[] {
  if (text.length > MAX_LIST_CHARACTERS) throw new FleetError('the list is longer than 4 MiB');
  const lines = text.replace(/^\uFEFF/, '').split(/\r\n|\n|\r/);
  const cellsOf = (line: string): string[] => line.split(',').map((cell) => cell.trim().replace(/^"([^"]*)"$/, '$1'));
  const head = cellsOf(lines[0]!).map((name) => name.toLowerCase());
  const known = ['site', 'probe', 'expires'];
  const isHead = head.every((name, i) => known.includes(name) && head.indexOf(name) === i);
  if (!isHead || !head.includes('site') || !head.includes('probe')) {
    throw new FleetError('line 1: the head of the list has to be site,probe or site,probe,expires');
  }
  const problems: string[] = [];
  const rows = new Map<string, ClaimRow>();
  for (const [i, line] of lines.entries()) {
    if (i === 0 || line.trim() === '') continue;
    const cells = cellsOf(line);
    const cell = (name: string): string => cells[head.indexOf(name)] ?? '';
    const [site, probe] = [cell('site'), cell('probe')];
    const problem = (wrong: string): void => void problems.push(`line ${i + 1}: ${wrong}`);
    const expiresAtMs = cell('expires') === '' ? nowMs + lifeMs : timeOf(cell('expires'), nowMs);
    if (cells.length !== head.length) problem(`has ${cells.length} columns, the head has ${head.length}`);
    else if (!isToken(site) || !isToken(probe)) problem(`"${site}/${probe}": both must match [a-z0-9_-]{1,63}`);
    else if (expiresAtMs === undefined) problem(`"${cell('expires')}" is neither a duration such as 7d nor a time`);
    else if (expiresAtMs <= nowMs) problem(`"${cell('expires')}" is over`);
    else if (rows.has(`${site}/${probe}`)) problem(`${site}/${probe} is in it twice`);
    else rows.set(`${site}/${probe}`, { site, probe, expiresAtMs });
    if (problems.length >= 20) break;
  }
  if (problems.length > 0) throw new FleetError(problems.join('\n'));
  if (rows.size === 0) throw new FleetError('the list names no probe');
  if (rows.size > MAX_ROWS) throw new FleetError(`the list names more than ${MAX_ROWS} probes`);
  return [...rows.values()];
}

function timeOf(text: string, nowMs: number): number | undefined {
  const ns = parseDurationNs(text);
  if (ns !== undefined) return ns > 0 && isWallMs(nowMs + ns / NS_PER_MS) ? nowMs + ns / NS_PER_MS : undefined;
  if (!/^\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?(?:Z|[+-]\d\d:\d\d)?)?$/.test(text)) return undefined;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? undefined : ms;
}

export interface IssueOptions {
  readonly rows: readonly ClaimRow[];
  /** Addresses of the broker as the devices reach it; none: they are told otherwise. */
  readonly servers: readonly string[];
  readonly nowMs: number;
}

export interface HandedOut extends ClaimRow {
  /** SECRET until it is claimed. */
  readonly text: string;
  /** Whether somebody has this name now, whose key is revoked when the claim is made. */
  readonly replaces: boolean;
}

/** A token for each row. One that was handed out before for the same name and not used is good no more. */
export async function issueClaims(
  fleet: Fleet,
  { rows, servers, nowMs }: IssueOptions,
): Promise<{ readonly fleet: Fleet; readonly handedOut: readonly HandedOut[] }> {
  const claims = fleet.claims ?? (await newClaims(fleet));
  const names = new Set(rows.map(formatIdentity));
  const kept = claims.issued
    .filter(({ expiresAtMs }) => expiresAtMs + REMEMBERED_MS > nowMs)
    .map((claim) =>
      names.has(formatIdentity(claim)) && isOpenClaim(claim) ? { ...claim, revokedAtMs: nowMs } : claim,
    );
  const signer = fromSeed(bytesOf(claims.signer));
  const handedOut: HandedOut[] = [];
  const issued: IssuedClaim[] = [];
  for (const { site, probe, expiresAtMs } of rows) {
    const identity = { site, probe };
    const user = createUser();
    const secret = newSecret();
    const name = `claim ${formatIdentity(identity)}`;
    const jwt = await scopedUser(fleet, { name, user: user.getPublicKey(), identity, expiresAtMs }, signer);
    const text = encodeClaim({
      v: 1,
      ...identity,
      secret,
      jwt,
      seed: seedOf(user),
      issuer: signerOf(claims.secret).publicKey,
      collectorKeys: collectorKeysOf(fleet),
      expiresAtMs: Math.floor(expiresAtMs),
      ...(servers.length > 0 && { servers: [...servers] }),
      ...(fleet.certificates && { ca: fleet.certificates.ca }),
    });
    const [key, publicUser] = [signerOf(secret).publicKey, user.getPublicKey()];
    issued.push({ ...identity, key, user: publicUser, addedAtMs: nowMs, expiresAtMs });
    handedOut.push({ ...identity, expiresAtMs, text, replaces: activeOf(fleet, identity).length > 0 });
  }
  const changed = { ...fleet, claims: { ...claims, issued: [...kept, ...issued] } };
  return { fleet: fleet.claims === undefined ? await withAccount(changed) : changed, handedOut };
}

/**
 * The broker's users of the claims of each name, by `site/probe`: the newest few, as others are shut out or have expired. No entry: nothing was handed
 * out for it.
 */
export function claimUsersOf({ claims }: Fleet): ReadonlyMap<string, readonly string[]> {
  const users = new Map<string, string[]>();
  for (const claim of claims?.issued ?? []) {
    const name = formatIdentity(claim);
    const before = users.get(name) ?? [];
    users.set(name, [claim.user, ...before].slice(0, MAX_USERS_ASKED_FOR));
  }
  return users;
}

/** Credentials of the user who answers claims. SECRET. */
export function issuerCredsOf({ claims }: Fleet): string {
  if (claims === undefined) throw new FleetError('there are no claims to answer: run wan-admin enroll first');
  return credsOf(claims.issuer);
}

async function newClaims(fleet: Fleet): Promise<FleetClaims> {
  const [signer, issuerSigner, user] = [createAccount(), createAccount(), createUser()];
  const jwt = await encodeUser('wan-issuer', user, accountOf(fleet), {}, { signer: issuerSigner, scopedUser: true });
  return {
    signer: seedOf(signer),
    issuerSigner: seedOf(issuerSigner),
    issuer: { seed: seedOf(user), jwt },
    secret: newSecret(),
    issued: [],
    refused: {},
  };
}

export type ClaimOutcome =
  | {
      readonly kind: 'granted';
      /** Whether this device was granted it before: it did not hear of it. */
      readonly isAgain: boolean;
      /** Keys of whoever had the name before, and has it no more. */
      readonly revoked: readonly string[];
      readonly key: string;
    }
  | { readonly kind: 'settled' }
  | { readonly kind: 'refused'; readonly cause: ClaimRefusal };

export interface AnsweredClaim {
  readonly fleet: Fleet;
  /** Undefined: nobody waits for one, or it cannot be told who asks. */
  readonly answer: Uint8Array | undefined;
  readonly outcome: ClaimOutcome;
}

/**
 * What becomes of a request, which anybody may have made.
 *
 * @param identity of its subject, which the broker holds its user to.
 */
export async function answerClaim(
  fleet: Fleet,
  identity: Identity,
  bytes: Uint8Array,
  nowMs: number,
): Promise<AnsweredClaim> {
  let read: ReturnType<typeof readClaimRequest>;
  try {
    read = readClaimRequest(bytes, identity);
  } catch (error) {
    if (!(error instanceof RejectedMessage)) throw error;
    const cause = error.rejectCause === 'wrong_identity' ? 'wrong_identity' : 'malformed';
    return { fleet, answer: undefined, outcome: { kind: 'refused', cause } };
  }
  const { request, isBy } = read;
  const { claims } = fleet;
  const claim = claims?.issued.find(({ key }) => key === request.claim);
  const refuse = (cause: ClaimRefusal): AnsweredClaim => {
    const { site, probe, user, key } = request;
    const answer: ClaimAnswer = { v: 1, site, probe, user, key, status: 'refused', cause };
    return {
      fleet,
      answer: claims && encodeClaimAnswer(answer, signerOf(claims.secret)),
      outcome: { kind: 'refused', cause },
    };
  };
  if (claims === undefined || claim === undefined) return refuse('unknown');
  if (!isBy(verifierOf(claim.key))) return refuse('bad_signature');
  if (formatIdentity(claim) !== formatIdentity(identity)) return refuse('wrong_identity');
  const isHis = claim.used?.user === request.user && claim.used.key === request.key;
  if (claim.used !== undefined && !isHis) return refuse('used');
  if (claim.revokedAtMs !== undefined) return refuse('revoked');
  if (!isUserKey(request.user)) return refuse('malformed');
  // A key of somebody else in the roster would be revoked there with the device that named it.
  if (!hasUserKey(request) || (!isHis && isTaken(fleet, request))) return refuse('bad_signature');
  if (request.step === 'stored') return isHis ? settle(fleet, claims, claim, nowMs) : refuse('unknown');
  if (claim.expiresAtMs <= nowMs) return refuse('expired');
  return isHis ? grantAgain(fleet, claims, request, nowMs, refuse) : grant(fleet, claims, claim, request, nowMs);
}

async function grant(
  fleet: Fleet,
  claims: FleetClaims,
  claim: IssuedClaim,
  request: ClaimRequest,
  nowMs: number,
): Promise<AnsweredClaim> {
  const identity = { site: claim.site, probe: claim.probe };
  const { user, key } = request;
  const before = new Set(activeOf(fleet, identity));
  const cleared = withRevoked(fleet, (probe) => before.has(probe), nowMs);
  const issued = replaced(claims.issued, claim, { ...claim, used: { atMs: nowMs, user, key } });
  const { fleet: enrolled, jwt } = await withProbe(
    { ...cleared, claims: { ...claims, issued } },
    { identity, nowMs, expiresAtMs: undefined, keys: { user, key } },
  );
  return {
    fleet: before.size === 0 ? enrolled : await withAccount(enrolled),
    answer: grantedAnswer(fleet, claims, request, jwt),
    outcome: { kind: 'granted', isAgain: false, revoked: [...before].map((probe) => probe.key), key },
  };
}

/** The answer was lost, or the power was, before it was on disk. */
async function grantAgain(
  fleet: Fleet,
  claims: FleetClaims,
  request: ClaimRequest,
  nowMs: number,
  refuse: (cause: ClaimRefusal) => AnsweredClaim,
): Promise<AnsweredClaim> {
  const present = activeOf(fleet, request).find((probe) => probe.user === request.user && probe.key === request.key);
  if (present === undefined) return refuse('revoked');
  const keys = { user: request.user, key: request.key };
  const { jwt } = await withProbe(fleet, { identity: request, nowMs, expiresAtMs: undefined, keys });
  // What is signed anew is signed by the newest key, which is not to be retired under it.
  const signer = fromSeed(bytesOf(fleet.probeSigners[0]!.seed)).getPublicKey();
  return {
    fleet: { ...fleet, probes: fleet.probes.map((probe) => (probe === present ? { ...probe, signer } : probe)) },
    answer: grantedAnswer(fleet, claims, request, jwt),
    outcome: { kind: 'granted', isAgain: true, revoked: [], key: request.key },
  };
}

async function settle(fleet: Fleet, claims: FleetClaims, claim: IssuedClaim, nowMs: number): Promise<AnsweredClaim> {
  if (claim.settledAtMs !== undefined) return { fleet, answer: undefined, outcome: { kind: 'settled' } };
  const issued = replaced(claims.issued, claim, { ...claim, settledAtMs: nowMs });
  // A user whose time is over needs no word in the account, which has to fit in one message.
  const over = new Set(issued.filter(({ expiresAtMs }) => expiresAtMs <= nowMs).map(({ user }) => user));
  const users = new Set(issued.map(({ user }) => user));
  const revocations = Object.entries(fleet.revocations).filter(([user]) => !over.has(user));
  const shutOut = revocations.filter(([user]) => users.has(user)).length;
  if (shutOut < MAX_SHUT_OUT) revocations.push([claim.user, Math.floor(nowMs / 1_000)]);
  const changed = { ...fleet, revocations: Object.fromEntries(revocations), claims: { ...claims, issued } };
  return { fleet: await withAccount(changed), answer: undefined, outcome: { kind: 'settled' } };
}

function grantedAnswer(fleet: Fleet, claims: FleetClaims, request: ClaimRequest, jwt: string): Uint8Array {
  const { site, probe, user, key } = request;
  return encodeClaimAnswer(
    {
      v: 1,
      ...{ site, probe, user, key },
      status: 'granted',
      jwt,
      collectorKeys: collectorKeysOf(fleet),
      ...(fleet.certificates && { ca: fleet.certificates.ca }),
    },
    signerOf(claims.secret),
  );
}

/** Whether its checksum is right: it may be anybody's. */
function isUserKey(text: string): boolean {
  try {
    fromPublic(text);
    return true;
  } catch {
    return false;
  }
}

/** Whether the device showed that it has the user's key. Earlier releases show nothing: theirs are only held against the keys in use. */
function hasUserKey(request: ClaimRequest): boolean {
  if (request.userProof === undefined) return true;
  try {
    return fromPublic(request.user).verify(claimProofOf(request), Buffer.from(request.userProof, 'base64url'));
  } catch {
    return false;
  }
}

/** Whether one of the keys of a request is, or was, that of anybody else in the fleet. */
function isTaken(fleet: Fleet, { user, key }: ClaimRequest): boolean {
  const { claims } = fleet;
  return (
    Object.hasOwn(fleet.revocations, user) ||
    ownUsersOf(fleet).has(user) ||
    collectorKeysOf(fleet).includes(key) ||
    fleet.probes.some((probe) => probe.user === user || probe.key === key) ||
    (claims !== undefined &&
      (signerOf(claims.secret).publicKey === key ||
        claims.issued.some(
          (claim) => claim.user === user || claim.key === key || claim.used?.user === user || claim.used?.key === key,
        )))
  );
}

function replaced<T>(all: readonly T[], old: T, next: T): T[] {
  return all.map((one) => (one === old ? next : one));
}
