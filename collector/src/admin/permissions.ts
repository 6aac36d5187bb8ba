/**
 * What each kind of broker user may do, and nothing else. The probes' permissions are a template of their signing key: the
 * broker fills in site and probe from the tags of the user, so whoever holds that key can make probes and nothing more.
 */
import type { UserPermissionsLimits } from '@nats-io/jwt';
import {
  CLAIM_INBOXES,
  CLAIM_SUBJECTS,
  claimInboxPrefixOf,
  claimSubjectOf,
  CLUSTER_KEY_PREFIX,
  CLUSTER_STREAM,
  COLLECTOR_INBOX_PREFIX,
  inboxPrefixOf,
  jetStreamApiOf,
  leafDeliveryOf,
  mappedReportOf,
  MAX_CLAIM_BYTES,
  MAX_MESSAGE_BYTES,
  PLAN_STREAM,
  REPORT_STREAM,
  reportStreamOf,
  STATE_STREAM,
  subjectOf,
  subjectsOf,
} from '@wanscope/shared';

/** The collector's answers travel on subjects that the broker lets a probe use once each, for this long. */
const ANSWER_TTL_NS = 60e9;
/** A message and its headers. */
const MAX_PAYLOAD_BYTES = MAX_MESSAGE_BYTES + 8 * 1_024;
const PROBE_SUBSCRIPTIONS = 16;

const probe = { site: '{{tag(site)}}', probe: '{{tag(probe)}}' };

/** Not leaf nodes, not MQTT: a probe is a client. */
const connections: UserPermissionsLimits['allowed_connection_types'] = ['STANDARD', 'WEBSOCKET'];

export const PROBE_PERMISSIONS: Partial<UserPermissionsLimits> = {
  pub: {
    allow: [
      subjectOf('report', probe),
      // Where reports are mapped to partitions, the broker asks for what they are mapped to.
      mappedReportOf(probe),
      subjectOf('hello', probe),
    ],
  },
  sub: {
    allow: [subjectOf('plan', probe), subjectOf('commit', probe), subjectOf('ask', probe), `${inboxPrefixOf(probe)}.>`],
  },
  resp: { max: 1, ttl: ANSWER_TTL_NS },
  subs: PROBE_SUBSCRIPTIONS,
  payload: MAX_PAYLOAD_BYTES,
  allowed_connection_types: connections,
};

/** Who has a token and no keys: one subject to say it on, one inbox to be answered in. */
export const CLAIM_PERMISSIONS: Partial<UserPermissionsLimits> = {
  pub: { allow: [claimSubjectOf(probe)] },
  sub: { allow: [`${claimInboxPrefixOf(probe)}.>`] },
  subs: 2,
  payload: MAX_CLAIM_BYTES,
  allowed_connection_types: connections,
};

/**
 * Answers claims. Not by a right to respond: that holds for any reply subject that a claim names, and a claim may name the subject of
 * a probe's hello.
 */
export const ISSUER_PERMISSIONS: Partial<UserPermissionsLimits> = {
  pub: { allow: [CLAIM_INBOXES] },
  sub: { allow: [CLAIM_SUBJECTS] },
  subs: 2,
  payload: MAX_CLAIM_BYTES,
  allowed_connection_types: connections,
};

/** Any probe of the site. */
const anyProbe = { ...probe, probe: '*' };
/**
 * nats-server 2.9 passes on interest in `x.*.*` to a leaf that may send `x.site.*` only if it may send a subject of that kind without
 * a wildcard, too.
 */
const somebody = { ...probe, probe: 'leaf' };

/**
 * The leaf node of a site: what the probes of this site say and hear, and nothing of another. Both ends hold the connection to it,
 * whoever logs in at the leaf. Reports are no part of it: the broker fetches them from the leaf's stream.
 */
export const LEAF_PERMISSIONS: Partial<UserPermissionsLimits> = {
  pub: {
    allow: [
      ...[anyProbe, somebody].flatMap((who) => [subjectOf('hello', who), claimSubjectOf(who)]),
      // Its stream, and the answer to who fetches it.
      `${leafDeliveryOf(probe.site)}.>`,
      '$JSC.R.*',
      // Answers to what the collector asked. They are signed.
      `${COLLECTOR_INBOX_PREFIX}.>`,
    ],
  },
  sub: {
    allow: [
      ...(['plan', 'commit', 'ask'] as const).map((kind) => subjectOf(kind, anyProbe)),
      `${inboxPrefixOf(anyProbe)}.>`,
      `${claimInboxPrefixOf(anyProbe)}.>`,
      // Who fetches its stream asks for it, and says how much it can take.
      `${jetStreamApiOf(probe.site)}.>`,
      '$JS.FC.>',
    ],
  },
  allowed_connection_types: ['LEAFNODE', 'LEAFNODE_WS'],
};

/** @param partitions of a cluster of collectors; undefined: there is one collector. */
export function collectorPermissions(partitions: number | undefined): Partial<UserPermissionsLimits> {
  const reports = Array.from({ length: partitions ?? 0 }, (_, partition) => reportStreamOf(partition));
  const streams = [
    ...(partitions === undefined ? [REPORT_STREAM] : [...reports, CLUSTER_STREAM]),
    STATE_STREAM,
    PLAN_STREAM,
  ];
  return {
    pub: {
      allow: [
        subjectsOf('plan'),
        subjectsOf('commit'),
        subjectsOf('ask'),
        ...(partitions === undefined ? [] : [`${CLUSTER_KEY_PREFIX}>`]),
        '$JS.API.INFO',
        ...streams.flatMap((stream) => [
          ...['CREATE', 'UPDATE', 'INFO'].map((what) => `$JS.API.STREAM.${what}.${stream}`),
          ...['CREATE', 'INFO', 'DELETE', 'MSG.NEXT'].map((what) => `$JS.API.CONSUMER.${what}.${stream}.>`),
          // An ordered consumer without a name of its own.
          `$JS.API.CONSUMER.CREATE.${stream}`,
        ]),
        // The streams at leaf nodes.
        ...['NAMES', 'CREATE.*', 'INFO.*'].map((what) => `${jetStreamApiOf('*')}.STREAM.${what}`),
      ],
    },
    sub: { allow: [`${COLLECTOR_INBOX_PREFIX}.>`] },
    allowed_connection_types: connections,
  };
}
