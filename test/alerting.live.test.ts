/** Alert rules and their routing, held against real promtool, amtool and Alertmanager. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Patience } from '@wanscope/shared/testing';
import { afterEach, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { FAULTS, outageTests } from './rules/outages.ts';

const run = promisify(execFile);
const fromRoot = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));
const alertmanagerConfig = fromRoot('deploy/compose/alertmanager/alertmanager.yml');
const rulesFile = fromRoot('deploy/compose/prometheus/rules/wanscope.rules.yaml');

test('promtool and amtool accept rules and configuration', async () => {
  await run('promtool', ['check', 'rules', rulesFile]);
  await run('promtool', ['check', 'config', '--syntax-only', fromRoot('deploy/compose/prometheus/prometheus.yml')]);
  await run('amtool', ['check-config', alertmanagerConfig]);
});

test('the rules pass their unit tests', async () => {
  const { stdout } = await run('promtool', ['test', 'rules', fromRoot('test/rules/wanscope.test.yaml')]);
  expect(stdout).toContain('SUCCESS');
});

describe.each(FAULTS)('when $name, $alert', (fault) => {
  test('fires while it does, and never starts when it is over', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'wanscope-rules-'));
    try {
      const file = join(directory, 'test.yaml');
      const rules = fault.config === undefined ? rulesFile : await rulesFor(fault.config, directory);
      writeFileSync(file, stringify({ rule_files: [rules], evaluation_interval: '10s', tests: outageTests(fault) }));
      const tested = await run('promtool', ['test', 'rules', file], { maxBuffer: 64 * 1024 ** 2 });
      expect(tested.stdout).toContain('SUCCESS');
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});

describe.each([
  ['an interval of 5 minutes', 'interval: 5m', '1/s', 300],
  ['an interval of 100 seconds', 'interval: 100s', '1/s', 100],
  ['one probe in 150 seconds', 'interval: 10s', '1/150s', 150],
])('with %s, the rules that wan-collector writes', (_what, setting, rate, stepS) => {
  test('hold a steady loss of a fifth without a break, and take a well collector for no stale one', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'wanscope-rules-'));
    try {
      await rulesFor(`${setting}\ntests:\n  t: { protocol: icmp, rate: ${rate} }\n`, directory);
      writeFileSync(join(directory, 'test.yaml'), stringify(steadyLoss(stepS)));
      await run('promtool', ['check', 'rules', join(directory, 'rules.yaml')]);
      const tested = await run('promtool', ['test', 'rules', join(directory, 'test.yaml')]);
      expect(tested.stdout).toContain('SUCCESS');
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});

/** The file that the program writes for a configuration. */
async function rulesFor(config: string, directory: string): Promise<string> {
  const [configFile, rulesOf] = ['wanscope.yaml', 'rules.yaml'].map((name) => join(directory, name)) as [
    string,
    string,
  ];
  writeFileSync(configFile, config);
  const program = fromRoot('collector/dist/main.js');
  const { stdout } = await run(process.execPath, [program, 'rules', '--config', configFile]);
  writeFileSync(rulesOf, stdout);
  return rulesOf;
}

/** Scraped every 10 s for 4 hours; counters grow once in `stepS`, by 20 probes of which 4 are lost, and a report comes as often. */
function steadyLoss(stepS: number): object {
  const samples = Array.from({ length: 4 * 360 }, (_unused, i) => i * 10);
  const steps = (size: number): string => samples.map((atS) => size * Math.floor(atS / stepS)).join(' ');
  const labels = 'network="default",src_site="a",dst_site="b",test="t",class="BE",family="ipv4"';
  const evaluations = Array.from({ length: 180 }, (_unused, i) => 3_600 + i * 60);
  return {
    rule_files: ['rules.yaml'],
    evaluation_interval: '10s',
    tests: [
      {
        interval: '10s',
        input_series: [
          { series: `wan_site_probes_sent_total{${labels}}`, values: steps(20) },
          { series: `wan_site_probes_lost_total{${labels}}`, values: steps(4) },
          { series: 'wan_objective_loss_ratio{src_site="a",dst_site="b",test="t"}', values: '0.01x1440' },
          { series: 'up{job="wanscope"}', values: '1x1440' },
          // Stamps are seconds since the epoch, at which promtool begins; a report waits for its turn.
          {
            series: 'wanscope_collector_last_report_timestamp_seconds',
            values: samples.map((atS) => stepS * Math.floor(atS / stepS)).join(' '),
          },
        ],
        promql_expr_test: evaluations.map((atS) => ({
          expr: 'sum by (alertname) (ALERTS{alertstate="firing"})',
          eval_time: `${atS}s`,
          exp_samples: [{ labels: '{alertname="WanPathLoss"}', value: 1 }],
        })),
      },
    ],
  };
}

interface Rule {
  readonly alert?: string;
  readonly labels?: Record<string, string>;
  readonly annotations?: Record<string, string>;
}

test('every alert has a severity, a summary, a description and a runbook that exists', () => {
  const { groups } = parse(readFileSync(rulesFile, 'utf8')) as { groups: { rules: Rule[] }[] };
  const alerts = groups.flatMap((group) => group.rules).filter((rule) => rule.alert !== undefined);
  const runbooks = readdirSync(fromRoot('docs/runbooks')).map((file) => `docs/runbooks/${file}`);
  expect(alerts.length).toBeGreaterThanOrEqual(6);
  for (const { alert, labels, annotations } of alerts) {
    expect(labels?.['severity'], alert).toMatch(/^(warning|critical)$/);
    expect(annotations?.['summary'], alert).toBeTruthy();
    expect(annotations?.['description'], alert).toBeTruthy();
    expect(runbooks, alert).toContain(annotations?.['runbook_url']);
  }
});

describe('Alertmanager with the shipped configuration', () => {
  const cleanUps: (() => unknown)[] = [];
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
  });

  interface Page {
    readonly alerts: readonly { readonly labels: Record<string, string> }[];
  }

  /** Starts Alertmanager with the shipped routes, its waits shortened and its receiver pointed here. */
  async function start(): Promise<{ url: string; pages: Page[] }> {
    const pages: Page[] = [];
    const receiver = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        pages.push(JSON.parse(Buffer.concat(chunks).toString()) as Page);
        response.end();
      });
    });
    receiver.listen(0, '127.0.0.1');
    await once(receiver, 'listening');
    cleanUps.push(() => void receiver.close());
    const receiverPort = (receiver.address() as AddressInfo).port;

    const directory = mkdtempSync(join(tmpdir(), 'wanscope-am-'));
    cleanUps.push(() => rmSync(directory, { recursive: true, force: true }));
    const config = parse(readFileSync(alertmanagerConfig, 'utf8')) as {
      route: Record<string, unknown>;
      receivers: unknown[];
    };
    Object.assign(config.route, { group_wait: '2s', group_interval: '2s' });
    config.receivers = [
      { name: 'operators', webhook_configs: [{ url: `http://127.0.0.1:${receiverPort}/`, send_resolved: false }] },
    ];
    const configFile = join(directory, 'alertmanager.yml');
    writeFileSync(configFile, stringify(config));
    const port = receiverPort === 19_093 ? 19_094 : 19_093;
    const alertmanager: ChildProcess = spawn(
      'prometheus-alertmanager',
      [
        `--config.file=${configFile}`,
        `--storage.path=${directory}`,
        `--web.listen-address=127.0.0.1:${port}`,
        '--cluster.listen-address=',
      ],
      { stdio: 'ignore' },
    );
    cleanUps.push(async () => {
      const exited = once(alertmanager, 'exit');
      alertmanager.kill();
      await exited;
    });
    const url = `http://127.0.0.1:${port}`;
    const patience = new Patience(15_000);
    for (;;) {
      const ready = await fetch(`${url}/-/ready`).then(
        (response) => response.ok,
        () => false,
      );
      if (ready) return { url, pages };
      if (patience.isOver) throw new Error('Alertmanager is not ready after 15 s');
      await sleep(100);
    }
  }

  const post = async (url: string, labelSets: Record<string, string>[]): Promise<void> => {
    const startsAt = new Date().toISOString();
    const response = await fetch(`${url}/api/v2/alerts`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(labelSets.map((labels) => ({ labels, startsAt }))),
    });
    expect(response.status).toBe(200);
  };

  const pathAlert = (alertname: string, src: number, dst: number): Record<string, string> => ({
    alertname,
    src_site: `s${src}`,
    dst_site: `s${dst}`,
    network: 'default',
    test: 'icmp',
    family: 'ipv4',
    severity: 'critical',
  });

  test('pages once for a site outage that takes 50 paths with it', async () => {
    const { url, pages } = await start();
    // Site s0 goes down: 25 paths from it, 25 towards it, its probe, and the site itself in every role.
    const others = Array.from({ length: 25 }, (_, i) => i + 1);
    await post(url, [
      { alertname: 'WanSiteUnreachable', site: 's0', src_site: 's0', dst_site: 's0', severity: 'critical' },
      { alertname: 'WanProbeSilent', site: 's0', probe: 'r1', severity: 'warning' },
      ...others.map((site) => pathAlert('WanPathDown', 0, site)),
      ...others.map((site) => pathAlert('WanPathDown', site, 0)),
    ]);
    await sleep(6_000); // three times the group wait and interval
    expect(pages.map((page) => page.alerts.map((alert) => alert.labels['alertname']))).toEqual([
      ['WanSiteUnreachable'],
    ]);
  });

  test('pages once for a broker that is lost, and for what another collector sees', async () => {
    const { url, pages } = await start();
    await post(url, [
      { alertname: 'WanBrokerLost', instance: 'c0', severity: 'critical' },
      { alertname: 'WanCollectorStale', instance: 'c0', severity: 'critical' },
      { alertname: 'WanProbeSilent', instance: 'c0', site: 's0', probe: 'r1', severity: 'warning' },
      { alertname: 'WanNobodyPlans', severity: 'warning' },
      { ...pathAlert('WanPathDown', 0, 1), instance: 'c0' },
      { ...pathAlert('WanPathDown', 2, 3), instance: 'c1' },
    ]);
    await sleep(6_000);
    const paged = pages.flatMap((page) =>
      page.alerts.map(({ labels }) => `${labels['alertname']} ${labels['instance']}`),
    );
    expect(paged.sort()).toEqual(['WanBrokerLost c0', 'WanPathDown c1']);
  });

  test('still pages for a path that has nothing to do with the site that is down', async () => {
    const { url, pages } = await start();
    await post(url, [
      { alertname: 'WanSiteUnreachable', site: 's0', src_site: 's0', dst_site: 's0', severity: 'critical' },
      pathAlert('WanPathDown', 0, 1),
      pathAlert('WanPathDown', 2, 3),
      pathAlert('WanPathLoss', 2, 3),
    ]);
    await sleep(6_000);
    const paged = pages.flatMap((page) => page.alerts.map((alert) => alert.labels['alertname']));
    expect(paged.sort()).toEqual(['WanPathDown', 'WanSiteUnreachable']);
  });
});
