/** JSON schemas of what the API answers; they are its OpenAPI description too. */
import { PROBLEM_KINDS } from './problems.ts';

const text = { type: 'string' } as const;
const time = { type: 'string', format: 'date-time' } as const;
const number = { type: 'number' } as const;
const integer = { type: 'integer' } as const;
const flag = { type: 'boolean' } as const;

type Schema = Readonly<Record<string, unknown>>;

function optional(schema: Schema): Schema {
  return { ...schema, type: [schema['type'], 'null'] };
}

function object(properties: Readonly<Record<string, Schema>>): Schema {
  return { type: 'object', required: Object.keys(properties), properties };
}

function list(items: Schema): Schema {
  return { type: 'array', items };
}

const anything: Schema = { type: 'object', additionalProperties: true };

export const error = object({ error: object({ code: text, message: text }) });

export const status = object({
  version: text,
  ready: flag,
  startedAt: time,
  now: time,
  busConnected: flag,
  intervalSeconds: number,
  paths: integer,
  sitePairs: integer,
  probes: integer,
  config: object({ lastReloadSuccessful: flag, lastReloadAt: time, problems: list(text) }),
  rollout: object({ state: text, share: number, reason: text }),
  snapshot: object({ durable: flag, writtenAt: optional(time), bytes: integer }),
  state: object({
    unreadable: list(text),
    countersReset: optional(
      object({
        at: time,
        reason: text,
        countedUntil: optional(time),
        readFrom: text,
        uncounted: optional(object({ from: optional(time), until: time })),
      }),
    ),
  }),
  rejected: list(object({ kind: text, cause: text, count: integer })),
});

export const cluster = object({
  partition: integer,
  partitions: integer,
  leads: flag,
  leader: optional(integer),
  peers: list(object({ partition: integer, ageSeconds: optional(number) })),
  sites: list(object({ site: text, partition: integer })),
});

export const sites = object({
  sites: list(
    object({
      name: text,
      configured: flag,
      role: optional(text),
      timezone: optional(text),
      latitude: optional(number),
      longitude: optional(number),
      reachable: optional(flag),
      maintenance: flag,
      paused: flag,
      probes: list(text),
    }),
  ),
});

export const probes = object({
  probes: list(
    object({
      site: text,
      probe: text,
      presence: text,
      configured: flag,
      saidGoodbye: flag,
      duplicateIdentity: flag,
      software: optional(text),
      bootId: optional(text),
      startedAt: optional(time),
      lastIntervalEnd: optional(time),
      planVersion: optional(integer),
      runsPlanVersion: optional(integer),
      icmp: list(text),
      endpoints: list(anything),
      clockOffsetSeconds: optional(number),
      paths: integer,
    }),
  ),
});

const interval = {
  type: ['object', 'null'],
  required: ['end', 'sent', 'lost'],
  properties: {
    end: time,
    sent: integer,
    lost: integer,
    lossRatio: optional(number),
    minRttSeconds: optional(number),
    meanRttSeconds: optional(number),
    medianRttSeconds: optional(number),
    maxRttSeconds: optional(number),
    interarrivalJitterSeconds: optional(number),
  },
};

const recentRtt = {
  type: ['object', 'null'],
  required: ['from', 'count'],
  properties: {
    from: time,
    count: integer,
    minSeconds: number,
    meanSeconds: number,
    maxSeconds: number,
    schema: integer,
    quantileSeconds: object({ p50: number, p90: number, p95: number, p99: number }),
  },
};

const byDirection = object({ forward: number, reverse: number });
const oneWayDelay = {
  type: ['object', 'null'],
  required: ['changeSeconds', 'pdvSeconds', 'delaySeconds', 'clockOffsetSeconds', 'clockErrorSeconds'],
  properties: {
    changeSeconds: byDirection,
    pdvSeconds: byDirection,
    delaySeconds: optional(byDirection),
    clockOffsetSeconds: number,
    clockErrorSeconds: number,
  },
};

const flows: Schema = {
  type: ['array', 'null'],
  items: object({
    sent: integer,
    lost: integer,
    meanRttSeconds: optional(number),
    interval: object({
      sent: integer,
      lost: integer,
      minRttSeconds: optional(number),
      meanRttSeconds: optional(number),
    }),
  }),
};

export const path = object({
  key: text,
  network: text,
  srcSite: text,
  src: text,
  srcUplink: text,
  dstSite: text,
  dst: text,
  dstUplink: text,
  dstNetwork: text,
  dstKind: text,
  test: text,
  protocol: text,
  class: text,
  family: text,
  state: text,
  reason: text,
  since: time,
  interval,
  totals: object({ sent: integer, lost: integer, backfilled: integer }),
  outcomes: { type: 'object', additionalProperties: integer },
  recentRtt,
  oneWayDelay,
  mos: optional(number),
  seenDscp: optional(integer),
  farSeenDscp: optional(integer),
  routeHops: optional(integer),
  flows,
  mtuBytes: optional(integer),
  mtuBlackHole: optional(flag),
  notSentCause: optional(text),
  tlsExpiry: optional(time),
  tlsFailure: optional(text),
});

export const chain = object({
  place: text,
  text,
  links: list(object({ site: text, segment: text, path })),
});

const router = object({ address: text, name: optional(text), as: optional(integer) });
const route: Schema = object({
  hash: text,
  flow: integer,
  since: time,
  heard: time,
  ending: text,
  hops: list(
    object({
      distance: integer,
      routers: list(router),
      others: list(router),
      answers: text,
      sent: integer,
      answered: integer,
      minRttSeconds: optional(number),
      medianRttSeconds: optional(number),
    }),
  ),
});

export const routes = object({ changes: integer, current: route, previous: optional(route) });

export const backfill = object({
  stepSeconds: number,
  steps: list(
    object({
      start: time,
      intervals: integer,
      sent: integer,
      lost: integer,
      lossRatio: number,
      minRttSeconds: optional(number),
      meanRttSeconds: optional(number),
      maxRttSeconds: optional(number),
    }),
  ),
});

export const paths = object({ paths: list(path), next: optional(text) });

const meshCell = object({
  src: text,
  dst: text,
  protocol: text,
  state: text,
  reason: text,
  since: time,
  paths: integer,
  sent: integer,
  lost: integer,
  lossRatio: optional(number),
  meanRttSeconds: optional(number),
  medianRttSeconds: optional(number),
  totals: object({ sent: integer, lost: integer, meanRttSeconds: optional(number) }),
});

export const problemPairs = object({ problems: list(meshCell), total: integer });

export const mesh = object({
  by: text,
  nodes: list(text),
  truncated: flag,
  cells: list(meshCell),
});

export const plan = object({ stretch: number, omittedSessions: integer, uplinks: list(anything), plan: anything });

export const throughput = object({
  from: text,
  to: text,
  network: text,
  fromUplink: text,
  toUplink: text,
  protocol: text,
  family: text,
  startedAt: time,
  endedAt: time,
  sentBytes: integer,
  deliveredBytes: integer,
  seconds: number,
  bitsPerSecond: optional(number),
  lossRatio: optional(number),
  retransmissions: optional(integer),
});
export const throughputs = object({ running: list(text), results: list(throughput) });

export const pause = object({ scope: text, since: time, until: optional(time), who: text, reason: text });
export const pauses = object({ pauses: list(pause), durable: flag });
export const resumed = object({ resumed: text });
export const retired = object({ retired: list(text) });
export const problems = object({
  problems: list(object({ kind: { ...text, enum: [...PROBLEM_KINDS] }, subject: text, text, since: time })),
  truncated: flag,
  departures: list(object({ site: text, probe: text, at: time, cause: text, who: text, reason: text })),
  sitesWithoutProbe: list(text),
});
export const audit = object({
  entries: list(object({ at: time, who: text, action: text, what: text, old: {}, new: {} })),
  next: optional(text),
});
