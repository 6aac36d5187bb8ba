/** What the API can be asked to do beside throughput runs: pause, resume, retire, and tell who did. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { formatIdentity, isToken, MAX_DURATION_NS, NS_PER_MS, parseDurationNs } from '@wanscope/shared';
import { ROLES, type OperatorConfig, type Role } from '@wanscope/shared/config';
import { shownPause, type Collector } from '../collector.ts';
import { parseScope } from '../pauses.ts';
import { RefusalTally } from '../refusal-tally.ts';
import { WRITE_LIMITS, WriteQuota } from '../write-quota.ts';
import { fail } from './answers.ts';
import * as schemas from './schemas.ts';

/** How who asks is named in the audit. */
export function nameOf({ user }: FastifyRequest): string {
  return user ?? 'anyone';
}

/** @returns true when the user may do what `needed` may. */
export function hasRole(request: FastifyRequest, { access }: OperatorConfig, needed: Role): boolean {
  const { user } = request;
  const role = (user === undefined ? undefined : access.get(user)) ?? access.get('*') ?? 'viewer';
  return ROLES.indexOf(role) >= ROLES.indexOf(needed);
}

/**
 * What every change through the API asks first: whether this user may make one, and not too many.
 *
 * @returns what was answered; undefined: the change may be made.
 */
export type OverQuota = (request: FastifyRequest, reply: FastifyReply) => FastifyReply | undefined;

export function changesOf(collector: Collector): OverQuota {
  const quota = new WriteQuota();
  const refusals = new RefusalTally();
  return (request, reply) => {
    const who = nameOf(request);
    const waitS = quota.take(who, performance.now());
    if (waitS === 0) return undefined;
    const summary = refusals.add(who, 'over_quota', Date.now());
    if (summary !== undefined) collector.audit.add(who, 'refused', 'changes', undefined, summary);
    const { perMinute, perDay } = WRITE_LIMITS;
    void reply.header('retry-after', String(waitS));
    const message = `${who} may change ${perMinute} things a minute and ${perDay} a day; try again in ${waitS} s`;
    return fail(reply, 429, 'over_quota', message);
  };
}

interface RetireBody {
  readonly scope: string;
  readonly reason?: string;
}

interface PauseBody {
  readonly scope: string;
  readonly for?: string;
  readonly reason?: string;
}

export function registerControls(
  app: FastifyInstance,
  collector: Collector,
  wallMs: () => number,
  overQuota: OverQuota,
): void {
  const mayNot = (request: FastifyRequest, reply: FastifyReply, needed: Role): FastifyReply | undefined =>
    hasRole(request, collector.config, needed)
      ? undefined
      : fail(reply, 403, 'not_allowed', `${nameOf(request)} is no ${needed}: see access in the configuration`);
  const badScope = (reply: FastifyReply): FastifyReply =>
    fail(reply, 400, 'invalid_parameter', 'scope must be fleet, site/<site> or uplink/<site>/<uplink>');
  const answered = { '4xx': schemas.error };

  app.get(
    '/api/v1/pauses',
    { schema: { summary: 'What operators have paused.', response: { 200: schemas.pauses } } },
    () => ({ pauses: collector.pauses.all.map(shownPause), durable: collector.pauses.isDurable }),
  );

  app.post<{ Body: PauseBody }>(
    '/api/v1/pauses',
    {
      schema: {
        summary:
          'Stops all tests from and to a scope: `fleet`, `site/<site>` or `uplink/<site>/<uplink>`. Needs an operator.',
        response: { 200: schemas.pause, ...answered },
        body: {
          type: 'object',
          additionalProperties: false,
          required: ['scope'],
          properties: {
            scope: { type: 'string', maxLength: 140 },
            for: { type: 'string', maxLength: 16 },
            reason: { type: 'string', maxLength: 256 },
          },
        },
      },
    },
    (request, reply) => {
      const refused = mayNot(request, reply, 'operator');
      if (refused !== undefined) return refused;
      const { scope: text, for: duration, reason = '' } = request.body;
      const scope = parseScope(text);
      if (scope === undefined) return badScope(reply);
      if (scope.kind !== 'fleet' && !isKnown(collector, scope.site)) {
        return fail(reply, 404, 'not_found', `there is no site ${scope.site}`);
      }
      if (scope.kind === 'uplink') {
        const uplinks = uplinksOf(collector, scope.site);
        if (!uplinks.includes(scope.uplink)) {
          const known = uplinks.length === 0 ? 'it has none' : `it has ${uplinks.join(', ')}`;
          return fail(reply, 404, 'not_found', `site ${scope.site} has no uplink ${scope.uplink}: ${known}`);
        }
      }
      const durationNs = duration === undefined ? undefined : parseDurationNs(duration);
      if (duration !== undefined && (durationNs === undefined || durationNs > MAX_DURATION_NS)) {
        return fail(reply, 400, 'invalid_parameter', 'for must be a duration such as 30m or 2h, 366d at most');
      }
      const tooMany = overQuota(request, reply);
      if (tooMany !== undefined) return tooMany;
      const sinceMs = wallMs();
      const untilMs = durationNs === undefined ? undefined : sinceMs + durationNs / NS_PER_MS;
      const pause = { scope, sinceMs, untilMs, who: nameOf(request), reason };
      if (!collector.pause(pause)) return fail(reply, 409, 'too_many', 'too much is paused already');
      return shownPause(pause);
    },
  );

  app.delete<{ Params: { '*': string } }>(
    '/api/v1/pauses/*',
    { schema: { summary: 'Resumes a scope. Needs an operator.', response: { 200: schemas.resumed, ...answered } } },
    (request, reply) => {
      const refused = mayNot(request, reply, 'operator');
      if (refused !== undefined) return refused;
      const scope = parseScope(request.params['*']);
      if (scope === undefined) return badScope(reply);
      if (collector.pauses.of(scope) === undefined) {
        return fail(reply, 404, 'not_found', `${request.params['*']} is not paused`);
      }
      const tooMany = overQuota(request, reply);
      if (tooMany !== undefined) return tooMany;
      collector.resume(scope, nameOf(request));
      return { resumed: request.params['*'] };
    },
  );

  app.post<{ Body: RetireBody }>(
    '/api/v1/retirements',
    {
      schema: {
        summary:
          'Retires the silent probes of a scope, `site/<site>` or `probe/<site>/<probe>`: they are no problem until they report again. Needs an operator.',
        response: { 200: schemas.retired, ...answered },
        body: {
          type: 'object',
          additionalProperties: false,
          required: ['scope'],
          properties: { scope: { type: 'string', maxLength: 140 }, reason: { type: 'string', maxLength: 256 } },
        },
      },
    },
    (request, reply) => {
      const refused = mayNot(request, reply, 'operator');
      if (refused !== undefined) return refused;
      const { scope, reason = '' } = request.body;
      const [kind, site = '', probe, ...rest] = scope.split('/');
      const isProbe = kind === 'probe' && probe !== undefined && isToken(probe);
      if (rest.length > 0 || !isToken(site) || !(isProbe || (kind === 'site' && probe === undefined))) {
        return fail(reply, 400, 'invalid_parameter', 'scope must be site/<site> or probe/<site>/<probe>');
      }
      if (!collector.owns(site)) {
        return fail(reply, 409, 'other_partition', `${site} is of another collector: see /api/v1/cluster`);
      }
      const named = collector.registry
        .probes()
        .map(({ identity }) => identity)
        .filter((identity) => identity.site === site && (probe === undefined || identity.probe === probe));
      if (named.length === 0) return fail(reply, 404, 'not_found', `there is no probe of ${scope}`);
      const tooMany = overQuota(request, reply);
      if (tooMany !== undefined) return tooMany;
      const retired = collector.retire(named, nameOf(request), reason);
      if (retired.length === 0) {
        return fail(
          reply,
          409,
          'not_silent',
          `no probe of ${scope} is silent: stop it, or take it out of the configuration`,
        );
      }
      return { retired: retired.map(formatIdentity) };
    },
  );

  app.get<{ Querystring: { before?: string } }>(
    '/api/v1/audit',
    {
      schema: {
        summary:
          'Who did what: the latest 1,000 entries, oldest first; `before` the `next` of a page has the page before it. Needs an admin.',
        response: { 200: schemas.audit, ...answered },
        querystring: {
          type: 'object',
          additionalProperties: false,
          properties: { before: { type: 'string', pattern: '^[0-9]{1,20}-[0-9]{1,15}$' } },
        },
      },
    },
    (request, reply) => {
      const refused = mayNot(request, reply, 'admin');
      if (refused !== undefined) return refused;
      const page = collector.audit.page(request.query.before);
      if (page === undefined) return fail(reply, 404, 'not_found', 'what was before is not kept any more');
      return { entries: page.entries, next: page.next ?? null };
    },
  );
}

/** Uplinks that the configuration names, or a probe of the site announces. */
function uplinksOf(collector: Collector, site: string): readonly string[] {
  const announced = collector.registry
    .probes()
    .filter(({ identity }) => identity.site === site)
    .flatMap(({ hello }) => hello?.endpoints.map(({ uplink }) => uplink) ?? []);
  const configured = [...collector.config.uplinks.keys()]
    .filter((key) => key.startsWith(`${site}/`))
    .map((key) => key.slice(site.length + 1));
  const names = new Set([...configured, ...announced]);
  names.delete('');
  return [...names].sort();
}

function isKnown(collector: Collector, site: string): boolean {
  return collector.config.sites.has(site) || collector.registry.probes().some(({ identity }) => identity.site === site);
}
