/** Scenarios: what goes wrong on a WAN, when, and what an observer should conclude from it. */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NS_PER_MS, parseDurationNs, type Clock } from '@wanscope/shared';
import { parse } from 'yaml';
import { z } from 'zod';
import type { Lab } from './lab.ts';
import { linkWordsSchema } from './topology-file.ts';

const SCENARIO_FOLDER = fileURLToPath(new URL('../scenarios/', import.meta.url));

const at = z.string().transform((value, context) => {
  const ns = parseDurationNs(value);
  if (ns !== undefined) return ns / NS_PER_MS;
  context.addIssue({ code: 'custom', message: `${value}: must be a time from the start such as 30s` });
  return z.NEVER;
});
const direction = z.enum(['a2b', 'b2a', 'both']).default('both');

const stepSchema = z.union([
  z.strictObject({ at, set: z.strictObject({ link: z.string(), dir: direction, to: linkWordsSchema }) }),
  /** Every link of a site, in the direction away from it (`out`), towards it (`in`) or both. */
  z.strictObject({
    at,
    site: z.strictObject({ name: z.string(), dir: z.enum(['out', 'in', 'both']).default('both'), to: linkWordsSchema }),
  }),
  z.strictObject({ at, reroute: z.strictObject({ avoid: z.array(z.string()) }) }),
  z.strictObject({ at, readdress: z.strictObject({ site: z.string() }) }),
  /** `via` null: back to the first uplink that works. */
  z.strictObject({ at, overlay: z.strictObject({ site: z.string(), via: z.string().nullable() }) }),
  /** How long the service at a site thinks. */
  z.strictObject({ at, service: z.strictObject({ at: z.string(), delay: at }) }),
  z.strictObject({ at, say: z.string() }),
]);

const scenarioSchema = z.strictObject({
  title: z.string(),
  /** What an observer should reach; used to score the analysis. */
  truth: z.strictObject({
    verdict: z.enum(['corruption', 'congestion', 'reroute', 'endpoint', 'outage', 'mtu', 'service', 'flapping']),
    /** Guilty links, or sites. */
    suspects: z.array(z.string()).min(1),
    direction: z.enum(['forward', 'reverse', 'both']),
    class: z.string().optional(),
    onset: at,
  }),
  timeline: z.array(stepSchema).min(1),
});

export type Scenario = z.infer<typeof scenarioSchema>;
type Step = Scenario['timeline'][number];

/** Names of the scenarios that come with the lab. */
export function scenarioNames(): string[] {
  return readdirSync(SCENARIO_FOLDER)
    .filter((file) => file.endsWith('.yaml'))
    .map((file) => basename(file, '.yaml'))
    .sort();
}

/**
 * Reads a scenario: one of the lab's by name, or a file.
 *
 * @throws Error naming file, place and rule.
 */
export function loadScenario(nameOrFile: string): Scenario {
  const file = nameOrFile.endsWith('.yaml') ? nameOrFile : join(SCENARIO_FOLDER, `${nameOrFile}.yaml`);
  const parsed = scenarioSchema.safeParse(parse(readFileSync(file, 'utf8')));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new Error(`${file}: ${issue.path.join('.')}: ${issue.message}`);
}

/** Carries out one step. */
async function carryOut(lab: Lab, step: Step, say: (line: string) => void): Promise<void> {
  if ('say' in step) say(step.say);
  else if ('reroute' in step) {
    const changed = lab.reroute(new Set(step.reroute.avoid));
    say(`routes avoid ${step.reroute.avoid.join(', ') || 'nothing'}: ${changed} changed`);
  } else if ('set' in step) {
    await lab.set(step.set.link, step.set.dir, step.set.to);
    say(`${step.set.link} ${step.set.dir}: ${JSON.stringify(step.set.to)}`);
  } else if ('readdress' in step) {
    const { ipv4, ipv6 } = await lab.readdress(step.readdress.site);
    say(`${step.readdress.site} is now ${ipv4} and ${ipv6}`);
  } else if ('overlay' in step) {
    await lab.setOverlay(step.overlay.site, step.overlay.via ?? undefined);
    say(`overlay of ${step.overlay.site} over ${step.overlay.via ?? 'its first uplink'}`);
  } else if ('service' in step) {
    lab.setServiceDelay(step.service.at, step.service.delay);
    say(`service at ${step.service.at} takes ${step.service.delay} ms`);
  } else {
    await lab.setSite(step.site.name, step.site.dir, step.site.to);
    say(`links of ${step.site.name}, ${step.site.dir}: ${JSON.stringify(step.site.to)}`);
  }
}

/** Plays a scenario to its end, or until `signal` aborts. What it set stays set. */
export async function play(
  lab: Lab,
  scenario: Scenario,
  clock: Clock,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const startNs = clock.monoNs();
  const steps = [...scenario.timeline].sort((a, b) => a.at - b.at);
  say(scenario.title);
  for (const step of steps) {
    const waitMs = step.at - (clock.monoNs() - startNs) / NS_PER_MS;
    await new Promise<void>((resolve) => {
      const cancel = clock.after(Math.max(0, waitMs), resolve);
      signal.addEventListener('abort', () => {
        cancel();
        resolve();
      });
    });
    if (signal.aborted) return;
    await carryOut(lab, step, (line) => say(`${(step.at / 1_000).toFixed(0)} s  ${line}`));
  }
}
