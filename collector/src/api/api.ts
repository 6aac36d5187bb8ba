/** The JSON API, version 1: read only, bounded, described by OpenAPI at /api/v1/openapi.json. */
import swagger from '@fastify/swagger';
import type { FastifyInstance } from 'fastify';
import type { Collector } from '../collector.ts';

export async function registerApi(app: FastifyInstance, collector: Collector): Promise<void> {
  await app.register(swagger, { openapi: { info: { title: 'wanscope collector', version: '1' } } });
  app.get('/api/v1/status', () => ({ ready: collector.isReady }));
  app.get('/api/v1/openapi.json', { schema: { hide: true } }, () => app.swagger());
}
