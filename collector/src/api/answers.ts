/** What every part of the API answers with when it cannot do what was asked. */
import type { FastifyReply } from 'fastify';

export function fail(reply: FastifyReply, statusCode: number, code: string, message: string): FastifyReply {
  return reply.code(statusCode).send({ error: { code, message } });
}
