/** Programs as they are shipped, run on loopback by a test that ends them, and what their metrics add up to. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Patience } from '@wanscope/shared/testing';
import { parseSamples, Service } from '@wanscope/lab';

export { freePort } from '@wanscope/shared/testing';

/** The sum of the samples of a family that have all the labels. */
export function sumOf(body: string, family: string, labels: Readonly<Record<string, string>> = {}): number {
  return parseSamples(body, new Set([family]))
    .filter((sample) => Object.entries(labels).every(([name, value]) => sample.labels[name] === value))
    .reduce((sum, { value }) => sum + value, 0);
}

/** Reports, and the probes sent in them. */
export interface Tally {
  readonly reports: number;
  readonly sent: number;
}

/** Of every report that a probe closed over all its starts, as it prints them with WAN_PRINT_REPORTS. */
export function closedIn(logFile: string): Tally {
  const lines = readFileSync(logFile, 'utf8').split('\n');
  // The last one is not whole, or empty.
  const reports = lines.slice(0, -1).flatMap((line) => {
    if (!line.includes('"records":[')) return [];
    return [JSON.parse(line) as { readonly records: readonly { readonly sent: number }[] }];
  });
  const sent = reports.flatMap(({ records }) => records).reduce((sum, record) => sum + record.sent, 0);
  return { reports: reports.length, sent };
}

export interface Programs {
  /** In the order of their starts. */
  readonly services: readonly Service[];
  readonly run: (
    name: string,
    command: readonly [string, ...string[]],
    env?: Readonly<Record<string, string>>,
  ) => Service;
  /** Polls; what throws does not hold yet. Throws with the logs of all, when it takes too long. */
  readonly until: (what: string, holds: () => Promise<boolean> | boolean, patienceMs?: number) => Promise<void>;
  /** The last that was started first. */
  readonly stop: () => Promise<void>;
}

/** Reports that are printed are long. */
function clipped(lines: string): string {
  return lines.replaceAll(/(?<=^.{300}).+$/gm, '…');
}

/** @param directory existing, for logs. */
export function programsIn(directory: string, patienceMs: number): Programs {
  const services: Service[] = [];
  return {
    services,
    run: (name, command, env = {}) => {
      const logFile = join(directory, `${name}.log`);
      const service = new Service({ name, enter: [], command, env, logFile, stopPatienceMs: 20_000 });
      services.push(service);
      service.start();
      return service;
    },
    until: async (what, holds, forMs = patienceMs) => {
      const patience = new Patience(forMs);
      let last = '';
      for (;;) {
        try {
          if (await holds()) return;
        } catch (error) {
          last = ` (${String(error)})`;
        }
        if (patience.isOver) {
          const logs = services.map((service) => `\n--- ${service.name}\n${clipped(service.logTail(15))}`).join('');
          throw new Error(`waited ${forMs} ms for ${what}${last}${logs}`);
        }
        await sleep(100);
      }
    },
    stop: async () => {
      for (const service of [...services].reverse()) await service.stop();
    },
  };
}
