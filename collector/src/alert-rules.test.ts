import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { alertRules } from './alert-rules.ts';
import { configOf } from './testing/fleet.ts';

const SHIPPED = new URL('../../deploy/compose/prometheus/rules/wanscope.rules.yaml', import.meta.url);

describe('alert rules', () => {
  test('that are shipped are those of the defaults: wan-collector rules --config FILE, with a file of `tests: {}`', () => {
    expect(readFileSync(SHIPPED, 'utf8')).toBe(alertRules(configOf('tests: {}')));
  });

  test('have the windows of the interval', () => {
    const rules = alertRules(configOf('interval: 5m\ntests: {}'));
    // Three intervals and scrapes: 930 s. Reports are there after two: 630 s.
    expect(rules).toContain('rate(wan_site_probes_lost_total[930s])');
    expect(rules).toContain('last_report_timestamp_seconds > 630)');
    // One interval and 25 s; another interval before that: 335 s ago.
    expect(rules).toContain('increase(wan_site_probes_lost_total[325s]) > 0');
    expect(rules).toContain('increase(wan_site_probes_lost_total[595s] offset 335s) > 0');
    // Three of them, and a minute to connect.
    expect(rules).toContain('min_over_time(wanscope_collector_bus_connected[16m]) == 0');
    expect(rules).toContain('last_over_time(wan_site_reachable[930s]) == 0');
    expect(rules).not.toContain('[2m]');
  });

  test('have a window of their own for tests that are slower than it', () => {
    const rules = alertRules(
      configOf(`
tests:
  icmp: { protocol: icmp }
  tcp: { protocol: tcp, rate: 1/10s }
  web: { protocol: http, rate: 1/180s }
  api: { protocol: http, rate: 1/180s }
`),
    );
    // 3 * (180 s + 10 s) = 570 s.
    expect(rules).toContain('rate(wan_site_probes_lost_total{test=~"api|web"}[570s])');
    expect(rules).toContain('rate(wan_site_probes_lost_total{test!~"api|web"}[2m])');
    expect(rules).toContain('increase(wan_site_probes_lost_total{test=~"api|web"}[205s]) > 0');
    expect(rules).toContain('increase(wan_site_probes_lost_total{test!~"api|web"}[35s]) > 0');
  });

  test('point to runbooks where the operator has them', () => {
    const rules = alertRules(configOf('tests: {}'), 'https://wiki.example/wan');
    expect(rules).toContain('runbook_url: https://wiki.example/wan/path-loss.md');
    expect(rules).not.toContain('docs/runbooks/');
  });
});
