import { expect, test } from 'vitest';
import { loadScenario, scenarioNames } from './scenario.ts';
import { nationalTopology } from './topology.ts';

const topology = nationalTopology(6);
const links = new Set(topology.links.map((link) => link.name));
const sites = new Set(topology.nodes.filter((node) => node.kind === 'site').map((node) => node.name));
const services = topology.nodes.filter((node) => node.service === true).map((node) => node.name);

test.each(scenarioNames())('%s names links and sites of the demo, and undoes what it does', (name) => {
  const { truth, timeline } = loadScenario(name);
  for (const suspect of truth.suspects) expect(links.has(suspect) || sites.has(suspect), suspect).toBe(true);
  for (const step of timeline) {
    if ('set' in step) expect(links).toContain(step.set.link);
    if ('site' in step) expect(sites).toContain(step.site.name);
    if ('service' in step) expect(services).toContain(step.service.at);
    if ('reroute' in step) for (const link of step.reroute.avoid) expect(links).toContain(link);
  }
  expect(timeline[0]!.at).toBe(truth.onset);
  const last = timeline.at(-1)!;
  expect(last.at).toBeGreaterThan(timeline[0]!.at);
  if ('reroute' in last) expect(last.reroute.avoid).toEqual([]);
  else if ('service' in last) expect(last.service.delay).toBe(0);
  else expect(JSON.stringify(last)).toMatch(/null|false|"(loss|corrupt)":0/);
});

test('a file that is not a scenario is refused with its place and rule', () => {
  const file = new URL('../../deploy/compose/wanscope.yaml', import.meta.url).pathname;
  expect(() => loadScenario(file)).toThrow(/wanscope\.yaml: title: /);
});
