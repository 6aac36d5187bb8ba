/** Test doubles that both sides use. Not imported by products. */
export * from './fake-clock.ts';
export * from './paths.ts';
export * from './patience.ts';
export * from './planned.ts';
export * from './random.ts';
export * from './reports.ts';
export * from './waiting.ts';
