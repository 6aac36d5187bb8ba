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
/** Last hello of each probe (one message per subject). */
export const STATE_STREAM = 'WAN_STATE';
/** Last plan of each probe (one message per subject). The collector alone publishes there. */
export const PLAN_STREAM = 'WAN_PLANS';
/**
 * Header of what a probe publishes on its report subject: `<bootId> <number>`, where the number counts the messages of that boot from 1.
 * A broker keeps the order of one connection, so a commit that names the number read last proves what was sent before it arrived or
 * was lost (docs/delivery.md).
 */
export const SEND_MARK_HEADER = 'Wan-Sent';
/** The stream of a key-value bucket, where the collectors of a cluster keep what they share (docs/cluster.md). */
export const CLUSTER_STREAM = 'KV_WAN_CLUSTER';
export const CLUSTER_KEY_PREFIX = '$KV.WAN_CLUSTER.';
/** Begins the name of the stream at a leaf node, which keeps what its site's probes report until the broker has it (docs/leaf.md). */
export const LEAF_STREAM_PREFIX = 'WAN_LEAF_';
/** JetStream domain of the broker of the fleet. That of a leaf node is its site, which is in lower case. */
export const HUB_DOMAIN = 'HUB';
/** Of a cluster. */
export const MAX_PARTITIONS = 64;

export const SUBJECT_KINDS = ['report', 'hello', 'plan', 'commit', 'ask'] as const;
export type SubjectKind = (typeof SUBJECT_KINDS)[number];

/** Stands in the place of a kind in subjects that the broker mapped. */
const PARTITION = 'part';

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
  const [site, probe, ...rest] = text.split('/', 3);
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

/**
 * The partition that a site belongs to, and with it all that its probes report: FNV-1a (32 bits) of its name, modulo the number
 * of partitions. What nats-server's subject mapping `{{partition(n,1)}}` computes.
 */
export function partitionOf(site: string, partitions: number): number {
  let hash = 0x811c9dc5;
  for (const octet of Buffer.from(site)) hash = Math.imul(hash ^ octet, 0x01000193) >>> 0;
  return hash % partitions;
}

/** The stream of reports of one partition. */
export function reportStreamOf(partition: number): string {
  return `${REPORT_STREAM}_${partition}`;
}

/** All subjects of one partition's reports, as the broker maps them: `wan.v1.part.<partition>.*.*`. */
export function reportsOfPartition(partition: number): string {
  return `${SUBJECT_PREFIX}.${PARTITION}.${partition}.*.*`;
}

/** The reports of one probe in whichever partition. */
export function mappedReportOf(identity: Identity): string {
  return `${SUBJECT_PREFIX}.${PARTITION}.*.${identity.site}.${identity.probe}`;
}

/** The reports of all probes of a site, as they are published and as a cluster's broker maps them. */
export function reportsOfSite(site: string): readonly [string, string] {
  const probes = { site, probe: '*' };
  return [subjectOf('report', probes), mappedReportOf(probes)];
}

/** Where the API of a JetStream domain is reached from outside it. */
export function jetStreamApiOf(domain: string): string {
  return `$JS.${domain}.API`;
}

/** A leaf node hands its site's reports over on subjects that begin so. */
export function leafDeliveryOf(site: string): string {
  return `${SUBJECT_PREFIX}.leaf.${site}`;
}

/** What the broker of a cluster maps reports to; the order of the partition's tokens is that of `parseSubject`. */
export function reportMapping(partitions: number): { readonly from: string; readonly to: string } {
  return {
    from: subjectsOf('report'),
    to: `${SUBJECT_PREFIX}.${PARTITION}.{{partition(${partitions},1)}}.{{wildcard(1)}}.{{wildcard(2)}}`,
  };
}

/** Of a mapped subject, behind its prefix: partition, its number, kind or site, probe. */
const MAX_TOKENS = 4;

/** Kind and identity of a subject, also of one that the broker mapped to its partition; undefined when it is not one of ours. */
export function parseSubject(subject: string): { kind: SubjectKind; identity: Identity } | undefined {
  if (!subject.startsWith(`${SUBJECT_PREFIX}.`)) return undefined;
  const tokens = subject.slice(SUBJECT_PREFIX.length + 1).split('.', MAX_TOKENS + 1);
  if (tokens[0] === PARTITION && /^[0-9]{1,2}$/.test(tokens[1] ?? '')) tokens.splice(0, 2, 'report');
  const [kind, site, probe, ...rest] = tokens;
  if (rest.length > 0 || site === undefined || probe === undefined) return undefined;
  const known = SUBJECT_KINDS.find((k) => k === kind);
  if (known === undefined || !isToken(site) || !isToken(probe)) return undefined;
  return { kind: known, identity: { site, probe } };
}

/** Which message of a boot this is, in the order in which the boot sent them. */
export interface SendMark {
  readonly bootId: string;
  /** From 1. */
  readonly number: number;
}

export function formatSendMark({ bootId, number }: SendMark): string {
  return `${bootId} ${number}`;
}

/** Undefined for any text that `formatSendMark` does not write. */
export function parseSendMark(text: string): SendMark | undefined {
  const [, bootId, digits] = /^([0-9a-f]{16}) ([1-9][0-9]{0,14})$/.exec(text) ?? [];
  return bootId === undefined ? undefined : { bootId, number: Number(digits) };
}
