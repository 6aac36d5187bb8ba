/** Test doubles for tests of several workspaces. Not imported by products. */
export { COUNTER } from '../series-table.ts';
export * from './live.ts';
export * from './memory-bus.ts';
