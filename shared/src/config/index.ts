/** The operator's configuration: apart from the rest, since a probe has no use for it and for what reads it. */
export * from './cron.ts';
export * from './load.ts';
export * from './schema.ts';
export * from './templates.ts';
export * from './yaml-file.ts';
