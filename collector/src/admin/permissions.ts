/**
 * What each kind of broker user may do, and nothing else. The probes' permissions are a template of their signing key: the
 * broker fills in site and probe from the tags of the user, so whoever holds that key can make probes and nothing more.
 */
import type { UserPermissionsLimits } from '@nats-io/jwt';
import {
  CLAIM_SUBJECTS,
  claimInboxPrefixOf,
  claimSubjectOf,
  CLUSTER_KEY_PREFIX,
  CLUSTER_STREAM,
  COLLECTOR_INBOX_PREFIX,
  inboxPrefixOf,
  mappedReportOf,
  MAX_CLAIM_BYTES,
  MAX_MESSAGE_BYTES,
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
const plans = subjectOf('plan', probe);

/** Not leaf nodes, not MQTT: a probe is a client. */
const connections: UserPermissionsLimits['allowed_connection_types'] = ['STANDARD', 'WEBSOCKET'];

export const PROBE_PERMISSIONS: Partial<UserPermissionsLimits> = {
  pub: {
    allow: [
      subjectOf('report', probe),
      // Where reports are mapped to partitions, the broker asks for what they are mapped to.
      mappedReportOf(probe),
      subjectOf('hello', probe),
      // The last plan of its own that the state stream holds.
      `$JS.API.DIRECT.GET.${STATE_STREAM}.${plans}`,
    ],
  },
  sub: { allow: [plans, subjectOf('commit', probe), subjectOf('ask', probe), `${inboxPrefixOf(probe)}.>`] },
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

/** Who answers claims: it hears them, and answers each once. */
export const ISSUER_PERMISSIONS: Partial<UserPermissionsLimits> = {
  pub: { deny: ['>'] },
  sub: { allow: [CLAIM_SUBJECTS] },
  resp: { max: 1, ttl: ANSWER_TTL_NS },
  subs: 2,
  payload: MAX_CLAIM_BYTES,
  allowed_connection_types: connections,
};

/** @param partitions of a cluster of collectors; undefined: there is one collector. */
export function collectorPermissions(partitions: number | undefined): Partial<UserPermissionsLimits> {
  const reports = Array.from({ length: partitions ?? 0 }, (_, partition) => reportStreamOf(partition));
  const streams = [...(partitions === undefined ? [REPORT_STREAM] : [...reports, CLUSTER_STREAM]), STATE_STREAM];
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
      ],
    },
    sub: { allow: [`${COLLECTOR_INBOX_PREFIX}.>`] },
    allowed_connection_types: connections,
  };
}
