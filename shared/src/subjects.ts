/**
 * NATS subjects and the streams that hold them.
 *
 * `wan.v1.<kind>.<site>.<probe>`; each token matches `[a-z0-9_-]{1,63}`, so that a name can be a subject token, a
 * label value and a NATS user without quoting.
 */

export const SUBJECT_PREFIX = 'wan.v1';

/** No message, of any kind, is larger. Larger ones are refused unread. */
export const MAX_MESSAGE_BYTES = 256 * 1024;
/** What a message may have before it is sealed. */
export const MAX_BODY_BYTES = MAX_MESSAGE_BYTES - 128;

/** Buffer of reports: 24 h, bounded, oldest discarded. The probe's spool is the durable copy. */
export const REPORT_STREAM = 'WAN_REPORTS';
/** Last full hello and plan of each probe (one message per subject). */
export const STATE_STREAM = 'WAN_STATE';

export const SUBJECT_KINDS = ['report', 'hello', 'plan', 'commit', 'ask'] as const;
export type SubjectKind = (typeof SUBJECT_KINDS)[number];

const TOKEN = /^[a-z0-9_-]{1,63}$/;

/** Who a probe is: its NATS user, its subjects and its labels. Written `site/probe`. */
export interface Identity {
  readonly site: string;
  readonly probe: string;
}

export function isToken(text: string): boolean {
  return TOKEN.test(text);
}

/** Lower-cases and replaces what a token may not hold by `-`: a host name as an identity. */
export function toToken(text: string): string {
  return text
    .toLowerCase()
    .replace(/[^a-z0-9_-]/g, '-')
    .slice(0, 63);
}

/** True for names that container engines make up (12 or 64 hex digits): they change at each start. */
export function looksLikeContainerId(name: string): boolean {
  return /^[0-9a-f]{12}$|^[0-9a-f]{63,64}$/.test(name);
}

export function formatIdentity(identity: Identity): string {
  return `${identity.site}/${identity.probe}`;
}

export function parseIdentity(text: string): Identity | undefined {
  const [site, probe, ...rest] = text.split('/');
  if (site === undefined || probe === undefined || rest.length > 0) return undefined;
  return isToken(site) && isToken(probe) ? { site, probe } : undefined;
}

export function subjectOf(kind: SubjectKind, identity: Identity): string {
  return `${SUBJECT_PREFIX}.${kind}.${identity.site}.${identity.probe}`;
}

/** Where a probe gets its answers: nobody else may read there, where the broker has accounts. */
export function inboxPrefixOf(identity: Identity): string {
  return `_INBOX.wan.${identity.site}.${identity.probe}`;
}

/** Where the collector gets its answers. */
export const COLLECTOR_INBOX_PREFIX = '_INBOX.wan-collector';

/** All subjects of one kind: `wan.v1.report.*.*`. */
export function subjectsOf(kind: SubjectKind): string {
  return `${SUBJECT_PREFIX}.${kind}.*.*`;
}

/** Kind and identity of a subject; undefined when it is not one of ours. */
export function parseSubject(subject: string): { kind: SubjectKind; identity: Identity } | undefined {
  if (!subject.startsWith(`${SUBJECT_PREFIX}.`)) return undefined;
  const [kind, site, probe, ...rest] = subject.slice(SUBJECT_PREFIX.length + 1).split('.');
  if (rest.length > 0 || site === undefined || probe === undefined) return undefined;
  const known = SUBJECT_KINDS.find((k) => k === kind);
  if (known === undefined || !isToken(site) || !isToken(probe)) return undefined;
  return { kind: known, identity: { site, probe } };
}
