/** The JSON API, version 1: read only but for pauses and throughput runs, bounded, described by OpenAPI at /api/v1/openapi.json. */
import { shownUrl } from '../shown-url.ts';
import swagger from '@fastify/swagger';
import type { FastifyInstance, FastifySchema } from 'fastify';
import { formatIdentity, isoTime, isToken, partitionOf, PROTOCOLS, type Identity, type Plan } from '@wanscope/shared';
import type { Collector } from '../collector.ts';
import { CONSENT_PROTOCOLS, hasConsent, refusalOf, type Consent } from '../consent.ts';
import { STATES } from '../path-state.ts';
import { fail } from './answers.ts';
import { backfillView } from './backfill-view.ts';
import { chainOf, plansBySite } from './chain.ts';
import { COUNTER } from '../series-table.ts';
import type { CountersReset } from '../snapshot.ts';
import { pathView, type PathFilter, pathPage } from './paths.ts';
import { clockOffsetMs } from '../ingest.ts';
import { meshOf, problemPairsOf } from './mesh.ts';
import { problemsOf } from './problems.ts';
import { changesOf, registerControls } from './controls.ts';
import { endpointNames, routesView } from './route-view.ts';
import * as schemas from './schemas.ts';
import { registerThroughput } from './throughput.ts';

const MAX_PAGE = 1_000;
const DEFAULT_PAGE = 100;

export async function registerApi(app: FastifyInstance, collector: Collector): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'wanscope collector',
        version: '1',
        description:
          'What the collector knows, read only but for pauses and throughput runs, which need an operator. Times are ISO 8601, durations seconds, shares ratios.',
      },
    },
  });
  app.setErrorHandler(async (error: Error & { validation?: unknown; statusCode?: number }, _request, reply) => {
    const statusCode = error.statusCode ?? 500;
    const code = error.validation === undefined ? (statusCode < 500 ? 'bad_request' : 'internal') : 'invalid_parameter';
    return fail(reply, statusCode, code, statusCode < 500 ? error.message : 'the request could not be served');
  });
  const { state, registry, ingest, plans } = collector;

  /** Who does not plan knows the plans as they were published. */
  const issuedTo = (identity: Identity): Plan | undefined =>
    plans.planOf(identity)?.plan ?? (collector.isLeader ? undefined : plans.issuedTo(identity));

  const overQuota = changesOf(collector);
  registerThroughput(app, collector, overQuota);
  registerControls(app, collector, () => Date.now(), overQuota);
  app.get('/api/v1/openapi.json', { schema: { hide: true } }, () => app.swagger());

  app.get('/api/v1/status', { schema: describeRoute('Health of the collector.', schemas.status) }, () => {
    const health = collector.health();
    return {
      version: health.version,
      ready: collector.isReady,
      startedAt: isoTime(health.startedAtMs),
      now: isoTime(Date.now()),
      busConnected: health.connected,
      intervalSeconds: collector.config.intervalMs / 1_000,
      paths: state.paths.size,
      sitePairs: state.sites.size,
      probes: registry.probes().length,
      config: {
        lastReloadSuccessful: health.configReloadSuccessful,
        lastReloadAt: isoTime(health.configReloadedAtMs),
        problems: [...collector.reloadProblems],
      },
      rollout: collector.rollout,
      snapshot: {
        durable: health.snapshot.durable,
        writtenAt: health.snapshot.writtenAtMs === undefined ? null : isoTime(health.snapshot.writtenAtMs),
        bytes: health.snapshot.bytes,
      },
      state: { unreadable: [...health.unreadable], countersReset: shownReset(health.countersReset) },
      rejected: [...ingest.counters.rejected].map(([key, count]) => {
        const [kind, cause] = key.split('|') as [string, string];
        return { kind, cause, count };
      }),
    };
  });

  app.get('/api/v1/cluster', { schema: describeRoute('Which collector has which sites.', schemas.cluster) }, () => {
    const { cluster, partitions = 1 } = { cluster: collector.cluster?.status, ...collector.cluster?.status.membership };
    const known = registry.probes().map(({ identity }) => identity.site);
    return {
      partition: cluster?.membership.partition ?? 0,
      partitions,
      leads: collector.isLeader,
      leader: cluster === undefined ? 0 : (cluster.leader ?? null),
      peers: (cluster?.peers ?? []).map(({ partition, ageMs }) => ({
        partition,
        ageSeconds: ageMs === undefined ? null : ageMs / 1_000,
      })),
      sites: [...new Set([...collector.config.sites.keys(), ...known])]
        .sort()
        .map((site) => ({ site, partition: partitionOf(site, partitions) })),
    };
  });

  app.get('/api/v1/sites', { schema: describeRoute('Sites, configured or heard of.', schemas.sites) }, () => {
    const { sites } = collector.config;
    const probes = registry.probes();
    const names = new Set([...sites.keys(), ...probes.map(({ identity }) => identity.site)]);
    return {
      sites: [...names].sort().map((name) => {
        const site = sites.get(name);
        return {
          name,
          configured: site !== undefined,
          role: site?.role ?? null,
          timezone: site?.timezone ?? null,
          latitude: site?.location?.[0] ?? null,
          longitude: site?.location?.[1] ?? null,
          reachable: collector.reachable.get(name) ?? null,
          maintenance: collector.maintenance.get(name) ?? false,
          paused: collector.pauses.covers(name),
          probes: probes.filter(({ identity }) => identity.site === name).map(({ identity }) => identity.probe),
        };
      }),
    };
  });

  app.get(
    '/api/v1/problems',
    { schema: describeRoute('What needs a person, since when; and which probes left.', schemas.problems) },
    () => problemsOf(collector),
  );

  app.get('/api/v1/probes', { schema: describeRoute('Probes known, with their presence.', schemas.probes) }, () => ({
    probes: registry.probes().map(({ identity, presence, hello, saidGoodbye, duplicateIdentity, configured }) => {
      const intake = ingest.intakeOf(identity);
      return {
        site: identity.site,
        probe: identity.probe,
        presence,
        configured,
        saidGoodbye,
        duplicateIdentity,
        software: hello?.software ?? null,
        bootId: hello?.bootId ?? null,
        startedAt: hello === undefined ? null : isoTime(hello.startedAtMs),
        lastIntervalEnd: intake?.lastIntervalEndMs === undefined ? null : isoTime(intake.lastIntervalEndMs),
        planVersion: issuedTo(identity)?.version ?? null,
        runsPlanVersion: hello?.planVersion ?? null,
        icmp: hello?.icmp ?? [],
        endpoints: hello?.endpoints ?? [],
        clockOffsetSeconds: intake === undefined ? null : clockOffsetMs(intake) / 1_000,
        paths: intake?.slots.size ?? 0,
      };
    }),
  }));

  app.get<{ Querystring: PathFilter & { limit?: string; cursor?: string } }>(
    '/api/v1/paths',
    {
      schema: {
        ...describeRoute(
          'Paths in slot order, a page at a time; `next` is the cursor of the following page.',
          schemas.paths,
        ),
        querystring: {
          type: 'object',
          additionalProperties: false,
          properties: {
            src_site: { type: 'string' },
            src: { type: 'string' },
            dst_site: { type: 'string' },
            dst: { type: 'string' },
            protocol: { type: 'string', enum: PROTOCOLS },
            state: { type: 'string', enum: STATES },
            limit: {
              type: 'string',
              pattern: '^[1-9][0-9]{0,5}$',
              description: `1 to ${MAX_PAGE}; ${DEFAULT_PAGE} without it`,
            },
            cursor: { type: 'string', pattern: '^[0-9]{1,10}$' },
          },
        },
      },
    },
    (request, reply) => {
      const { cursor = 0, limit = DEFAULT_PAGE, ...filter } = request.query;
      if (Number(limit) > MAX_PAGE) return fail(reply, 400, 'invalid_parameter', `limit must be 1 to ${MAX_PAGE}`);
      return pathPage(state, filter, Number(cursor), Number(limit), Date.now());
    },
  );

  app.get<{ Params: { key: string } }>(
    '/api/v1/paths/:key',
    {
      schema: {
        ...describeRoute('One path, with its counters.', schemas.path),
        params: { type: 'object', properties: { key: { type: 'string', pattern: '^[0-9a-f]{32}$' } } },
      },
    },
    (request, reply) => {
      const slot = state.paths.find(request.params.key);
      return slot === undefined
        ? fail(reply, 404, 'not_found', 'there is no such path')
        : pathView(state, slot, Date.now());
    },
  );

  app.get<{ Params: { key: string } }>(
    '/api/v1/paths/:key/route',
    {
      schema: {
        ...describeRoute(
          'The route of a path, hop by hop, since when, and the one before. `others` are routers that other flows pass.',
          schemas.routes,
        ),
        params: { type: 'object', properties: { key: { type: 'string', pattern: '^[0-9a-f]{32}$' } } },
      },
    },
    (request, reply) => {
      const slot = state.paths.find(request.params.key);
      const routes = slot === undefined ? undefined : state.routes.of(slot);
      if (slot === undefined || routes === undefined) return fail(reply, 404, 'not_found', 'no route of it is known');
      const network = state.paths.part(slot, 'network');
      const changes = state.paths.get(slot, COUNTER.routeChanges);
      return routesView(routes, changes, collector.config.hops, namesOf(collector, network));
    },
  );

  app.get<{ Params: { key: string }; Querystring: { since?: string } }>(
    '/api/v1/paths/:key/backfill',
    {
      schema: {
        ...describeRoute(
          'Intervals of a path that came late, added up in steps; `since` leaves out the steps that begin before.',
          schemas.backfill,
        ),
        params: { type: 'object', properties: { key: { type: 'string', pattern: '^[0-9a-f]{32}$' } } },
        querystring: {
          type: 'object',
          additionalProperties: false,
          properties: { since: { type: 'string', format: 'date-time' } },
        },
      },
    },
    (request, reply) => {
      const slot = state.paths.find(request.params.key);
      if (slot === undefined) return fail(reply, 404, 'not_found', 'there is no such path');
      return backfillView(state.backfills.of(slot), Date.parse(request.query.since ?? '1970-01-01'));
    },
  );

  app.get<{ Params: { key: string } }>(
    '/api/v1/paths/:key/chain',
    {
      schema: {
        ...describeRoute(
          'The segments of the two sites of a path, from the source on, and where they say that a fault is.',
          schemas.chain,
        ),
        params: { type: 'object', properties: { key: { type: 'string', pattern: '^[0-9a-f]{32}$' } } },
      },
    },
    (request, reply) => {
      const slot = state.paths.find(request.params.key);
      if (slot === undefined) return fail(reply, 404, 'not_found', 'there is no such path');
      const fleet = registry.probes().map(({ identity }) => identity);
      return chainOf(state, slot, plansBySite(fleet, issuedTo), Date.now());
    },
  );

  app.get<{ Querystring: { by?: 'site' | 'host' } }>(
    '/api/v1/mesh',
    {
      schema: {
        ...describeRoute(
          'The matrix: for each ordered pair and protocol the state and the latest interval, over all its paths.',
          schemas.mesh,
        ),
        querystring: {
          type: 'object',
          additionalProperties: false,
          properties: { by: { type: 'string', enum: ['site', 'host'], default: 'site' } },
        },
      },
    },
    (request) => meshOf(state, request.query.by ?? 'site'),
  );

  app.get(
    '/api/v1/problem-pairs',
    {
      schema: describeRoute(
        'Cells of the matrix between sites that are down or degraded, the gravest first; `total` counts those left out, too.',
        schemas.problemPairs,
      ),
    },
    () => problemPairsOf(state),
  );

  app.get<{ Params: Identity }>(
    '/api/v1/plan/:site/:probe',
    {
      schema: {
        ...describeRoute('The plan issued to a probe.', schemas.plan),
        params: { type: 'object', properties: { site: { type: 'string' }, probe: { type: 'string' } } },
      },
    },
    (request, reply) => {
      const { site, probe } = request.params;
      const planned = isToken(site) && isToken(probe) ? plans.planOf({ site, probe }) : undefined;
      if (planned === undefined) {
        return fail(reply, 404, 'not_found', `there is no plan for ${formatIdentity({ site, probe })}`);
      }
      const { stretch, omittedSessions, uplinks, plan } = planned;
      return { stretch, omittedSessions, uplinks, plan: withoutSecrets(plan) };
    },
  );
}

interface Secretive {
  readonly proxy?: string | undefined;
  readonly stampKey?: string | undefined;
  readonly authorization?: string | undefined;
  readonly url?: string | undefined;
}

/** A plan as it may be shown: proxies and URLs without user name and password, URLs without their query, no keys. */
export function withoutSecrets(plan: Plan): Plan {
  const shown = <T extends Secretive>({
    stampKey: _stampKey,
    authorization: _authorization,
    ...entry
  }: T): Omit<T, 'stampKey' | 'authorization'> => ({
    ...entry,
    ...(entry.proxy === undefined ? {} : { proxy: new URL(entry.proxy).origin }),
    ...(entry.url === undefined ? {} : { url: shownUrl(entry.url) }),
  });
  return { ...plan, tests: plan.tests.map(shown), destinations: plan.destinations.map(shown) };
}

/** Names of the addresses of the fleet in one network. */
function namesOf(collector: Collector, network: string): ReadonlyMap<string, string> {
  const { config, consents, gate, registry } = collector;
  const given = {
    isGiven: (consent: Consent) => consents.isGiven(consent),
    isMigrating: config.identity?.consent === 'migrating',
  };
  return endpointNames(registry.probes(), network, {
    isRefused: ({ site }, address) => refusalOf(config, site, address) !== undefined,
    hasConsented: (hello, address) =>
      // A fleet without keys asks for no consent.
      !gate.isRequired ||
      hello.endpoints.some(({ reflect }) =>
        CONSENT_PROTOCOLS.some((protocol) => hasConsent(given, hello, { network, reflect }, address, protocol)),
      ),
  });
}

function describeRoute(summary: string, response: object): FastifySchema {
  return { summary, response: { 200: response, '4xx': schemas.error } };
}

/** Since when counters count, where they began at zero because the state of before could not be read. */
function shownReset(reset: CountersReset | undefined): object | null {
  if (reset === undefined) return null;
  const { atMs, reason, countedUntilMs, readFrom, uncountedUntilMs } = reset;
  const countedUntil = countedUntilMs === undefined ? null : isoTime(countedUntilMs);
  const uncounted = uncountedUntilMs === undefined ? null : { from: countedUntil, until: isoTime(uncountedUntilMs) };
  return { at: isoTime(atMs), reason, countedUntil, readFrom, uncounted };
}
