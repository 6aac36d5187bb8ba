/** The one thing that the API can be asked to do: a throughput run, with a key. */
import type { FastifyInstance } from 'fastify';
import { FAMILIES, formatIdentity, isoTime, THROUGHPUT_CAP, THROUGHPUT_PROTOCOLS } from '@wanscope/shared';
import type { ThroughputFailure, ThroughputRequest, ThroughputResult } from '../throughput.ts';
import type { Collector } from '../collector.ts';
import { RefusalTally } from '../refusal-tally.ts';
import { fail } from './answers.ts';
import { hasRole, nameOf, type OverQuota } from './controls.ts';
import * as schemas from './schemas.ts';

const STATUS: Readonly<Record<ThroughputFailure, number>> = {
  not_configured: 403,
  unauthorized: 401,
  not_allowed: 403,
  unknown_probe: 404,
  not_possible: 422,
  busy: 409,
  over_quota: 429,
  refused: 502,
  no_answer: 504,
};

export function registerThroughput(app: FastifyInstance, collector: Collector, overQuota: OverQuota): void {
  const desk = collector.throughput;
  const refusals = new RefusalTally();
  app.get(
    '/api/v1/throughput',
    {
      schema: {
        summary: 'Hosts with a throughput run under way, and the last results.',
        response: { 200: schemas.throughputs },
      },
    },
    () => ({ running: desk.running, results: desk.results.map(shown) }),
  );

  app.post<{ Body: ThroughputRequest }>(
    '/api/v1/throughput',
    {
      schema: {
        summary:
          'Measures the throughput from one probe to another, once. Needs an operator, or `Authorization: Bearer` and the configured key.',
        response: { 200: schemas.throughput, '4xx': schemas.error, '5xx': schemas.error },
        body: {
          type: 'object',
          additionalProperties: false,
          required: ['from', 'to', 'protocol'],
          properties: {
            from: { type: 'string', maxLength: 127 },
            to: { type: 'string', maxLength: 127 },
            protocol: { type: 'string', enum: THROUGHPUT_PROTOCOLS },
            family: { type: 'string', enum: FAMILIES },
            network: { type: 'string', maxLength: 63 },
            fromUplink: { type: 'string', maxLength: 63 },
            toUplink: { type: 'string', maxLength: 63 },
            seconds: { type: 'integer', minimum: 1, maximum: THROUGHPUT_CAP.seconds },
            bytes: { type: 'integer', minimum: 1, maximum: THROUGHPUT_CAP.bytes },
            bitsPerSecond: { type: 'integer', minimum: 1_000, maximum: THROUGHPUT_CAP.bitsPerSecond },
          },
        },
      },
    },
    async (request, reply) => {
      const key = /^Bearer (\S{1,256})$/.exec(request.headers.authorization ?? '')?.[1];
      const { user } = request;
      const isOperator = user !== undefined && hasRole(request, collector.config, 'operator');
      // Who has the key alone is held to the runs of a minute, once it is known to be the key.
      const tooMany = isOperator ? overQuota(request, reply) : undefined;
      if (tooMany !== undefined) return tooMany;
      const outcome = await desk.run(request.body, isOperator ? { user } : key);
      const who = isOperator || key === undefined ? nameOf(request) : 'throughput key';
      const { from, to } = request.body;
      if (outcome.ok || outcome.asked) {
        collector.audit.add(who, 'throughput', `${from} > ${to}`, request.body, outcome.ok ? 'done' : outcome.cause);
      } else {
        const summary = refusals.add(who, outcome.cause, Date.now());
        if (summary !== undefined) collector.audit.add(who, 'throughput', 'refused', undefined, summary);
      }
      if (outcome.ok) return shown(outcome.result);
      return fail(reply, STATUS[outcome.cause], outcome.cause, outcome.message);
    },
  );
}

function shown(result: ThroughputResult): object {
  const { from, to, startedAtMs, endedAtMs, bitsPerSecond, lossRatio, retransmissions, ...rest } = result;
  return {
    ...rest,
    from: formatIdentity(from),
    to: formatIdentity(to),
    startedAt: isoTime(startedAtMs),
    endedAt: isoTime(endedAtMs),
    bitsPerSecond: bitsPerSecond ?? null,
    lossRatio: lossRatio ?? null,
    retransmissions: retransmissions ?? null,
  };
}
