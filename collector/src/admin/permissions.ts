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

/**
 * What passes between the fleet's account and the account of a site's leaf node. nats-server 2.9 does not check what a leaf node publishes
 * against the permissions of its user, so a leaf node has an account of its own, without JetStream: what is not in this list has no way into
 * the fleet's account, whatever a leaf node publishes and whatever reply subject it names.
 */
export interface LeafExchange {
  /** Messages from the leaf node. */
  readonly fromLeaf: readonly string[];
  /** Requests to the leaf node; the broker takes one answer to each, on a subject that it chooses. */
  readonly requests: readonly string[];
  /** Messages to the leaf node. */
  readonly toLeaf: readonly string[];
}

/** @param site its name, or "*" for what the fleet's account offers to all of them. */
export function leafExchangeOf(site: string): LeafExchange {
  const probes = { site, probe: '*' };
  return {
    // The last is its stream of reports, which the broker fetches.
    fromLeaf: [subjectOf('hello', probes), claimSubjectOf(probes), `${leafDeliveryOf(site)}.>`],
    requests: [`${jetStreamApiOf(site)}.>`, subjectOf('ask', probes)],
    toLeaf: [
      subjectOf('plan', probes),
      subjectOf('commit', probes),
      `${inboxPrefixOf(probes)}.>`,
      `${claimInboxPrefixOf(probes)}.>`,
      // How much the broker can take of the stream.
      '$JS.FC.>',
    ],
  };
}

/** Answers to requests across accounts, on subjects that the broker makes. */
const ANSWERS_ACROSS_ACCOUNTS = '_R_.>';

/** The leaf node's user in its own account: both ends ask each other for nothing else, and the broker sends it nothing else. */
export function leafPermissions(site: string): Partial<UserPermissionsLimits> {
  const { fromLeaf, requests, toLeaf } = leafExchangeOf(site);
  return {
    pub: { allow: [...fromLeaf, ANSWERS_ACROSS_ACCOUNTS] },
    sub: { allow: [...toLeaf, ...requests] },
    allowed_connection_types: ['LEAFNODE', 'LEAFNODE_WS'],
  };
}

const ofTemplate = leafExchangeOf(probe.site);

/**
 * Of leaf nodes that were made before each had an account of its own: the broker holds them to what it sends them, not to what they
 * publish. Kept until `wan-admin leaf add` replaces them.
 */
export const FORMER_LEAF_PERMISSIONS: Partial<UserPermissionsLimits> = {
  pub: {
    allow: [
      // nats-server 2.9 passes on interest in `x.*.*` only where a subject of that kind without a wildcard may be sent, too.
      ...[
        { ...probe, probe: '*' },
        { ...probe, probe: 'leaf' },
      ].flatMap((who) => [subjectOf('hello', who), claimSubjectOf(who)]),
      `${leafDeliveryOf(probe.site)}.>`,
      '$JSC.R.*',
      `${COLLECTOR_INBOX_PREFIX}.>`,
    ],
  },
  sub: { allow: [...ofTemplate.toLeaf, ...ofTemplate.requests] },
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
