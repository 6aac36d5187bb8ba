/** The page the collector serves, in a real Chromium, over a real mesh. */
import { rmSync } from 'node:fs';
import { makeRunDirectory, Mesh, namespacesUnavailable, openDoor, SwitchedNetwork } from '@wanscope/lab';
import { chromium, type Browser, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const PROBES = [
  { site: 'hq', probe: 'a' },
  { site: 'hq', probe: 'b' },
  { site: 'branch', probe: 'a' },
];
const CONFIG = `
interval: 2s
sites:
  # The centre of the switched network, which has the broker and answers pings.
  hq: { role: hub, segments: { lan-gateway: 198.18.0.1 } }
  branch: {}
tests:
  icmp: { protocol: icmp, rate: 5/s }
  udp:  { protocol: udp, rate: 5/s }
meshes:
  - { shape: full, tests: [icmp, udp] }
`;
const PATIENCE_MS = 20_000;

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

describe.skipIf(unavailable !== undefined)(`the page${why}`, () => {
  let directory: string;
  let mesh: Mesh;
  let door: Awaited<ReturnType<typeof openDoor>>;
  let browser: Browser;
  let page: Page;
  const complaints: string[] = [];

  beforeAll(async () => {
    directory = makeRunDirectory();
    mesh = new Mesh({ directory, probes: PROBES, config: CONFIG, network: new SwitchedNetwork(PROBES) });
    await mesh.start();
    door = await openDoor(0, mesh.collectorSocket);
    await mesh.until('the mesh to measure', async () => {
      const answer = await mesh.get('/api/v1/mesh?by=host');
      const { cells } = JSON.parse(answer.body) as { cells: { state: string }[] };
      return cells.length === 6 * 2 + 2 && cells.every((cell) => cell.state === 'ok');
    });
    browser = await chromium.launch({
      executablePath: '/usr/bin/chromium',
      args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
    });
    page = await browser.newPage();
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(error.message));
    await page.goto(`http://127.0.0.1:${door.port}/`);
    await page.waitForSelector('#mesh button');
  });

  afterAll(async () => {
    await browser.close();
    await door.close();
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  test('says that every probe is live and nothing is wrong', async () => {
    expect(await page.textContent('#summary')).toContain('3 of 3 probes live, 26 paths');
    expect(await page.textContent('#problems')).toContain('Nothing');
  });

  test('shows the sites as a matrix, and hosts when asked', async () => {
    // hq -> hq (its two probes), hq -> branch, branch -> hq, hq -> its LAN gateway
    expect(await page.locator('#mesh td.ok').count()).toBe(4);
    await page.selectOption('#by', 'host');
    await page.waitForFunction(() => document.querySelectorAll('#mesh td.ok').length === 8);
  });

  test('lists the paths behind a cell with their delays', async () => {
    await page.selectOption('#by', 'site');
    await page.waitForFunction(() => document.querySelectorAll('#mesh td.ok').length === 4);
    await page.getByTitle(/^hq → branch/).click();
    await page.waitForSelector('#paths tbody tr');
    // Two sources x icmp and udp x IPv4 and IPv6
    expect(await page.locator('#paths tbody tr').count()).toBe(8);
    expect(await page.textContent('#paths-title')).toBe('Paths hq → branch');
    const heads = await page.locator('#paths thead th').allTextContents();
    const cells = await page.locator('#paths tbody tr').first().locator('td').allTextContents();
    for (const column of ['min', 'mean', 'max', 'median', 'p99']) {
      expect(cells[heads.indexOf(column)]).toMatch(/^\d+(\.\d)? (µs|ms)$/);
    }
  });

  test('shows the route of a path, and its MTU', async () => {
    // Both ends are on one switch.
    const button = page.getByTitle('Route of udp, ipv4').first();
    await button.waitFor({ timeout: PATIENCE_MS });
    expect(await button.textContent()).toBe('1 hop');
    await button.click();
    await page.waitForSelector('#route-hops li');
    expect(await page.textContent('#route-title')).toMatch(/^Route hq\/[ab] → branch\/a, udp$/);
    expect(await page.textContent('#route-hops')).toMatch(/^198\.18\.0\.\d \(branch\/a\) \d/);
    expect(await page.textContent('#route-text')).toMatch(/^since .*, 0 changes\.$/);
    await page.waitForFunction(
      () => [...document.querySelectorAll('#paths tbody td')].some((cell) => cell.textContent === '1500'),
      undefined,
      { timeout: PATIENCE_MS },
    );
  });

  test('shows the segments of a path before its far end', async () => {
    await page.waitForSelector('#chain-links li');
    const links = await page.locator('#chain-links li.ok').allTextContents();
    expect(links).toHaveLength(2);
    expect(links[0]).toMatch(/^hq lan gateway ok, 0 %, \d/);
    expect(links[1]).toMatch(/^branch\/a /);
    expect(await page.textContent('#chain-text')).toBe('Nothing is wrong with this path.');
  });

  test('keeps the focus of the keyboard over a refresh', async () => {
    const button = page.getByTitle(/^hq → branch/);
    await button.focus();
    const key = await button.getAttribute('data-key');
    const before = await page.textContent('#summary');
    await page.waitForFunction((text) => document.querySelector('#summary')?.textContent !== text, before, {
      timeout: PATIENCE_MS,
    });
    expect(await page.evaluate(() => (document.activeElement as HTMLElement | null)?.dataset['key'])).toBe(key);
  });

  describe('over a fleet that is made up', () => {
    const CELL = { protocol: 'icmp', reason: 'loss', since: '2026-01-05T12:00:00.000Z', paths: 1, sent: 5, lost: 5 };
    const END = { srcSite: 'hq', src: 'a', dstSite: 'external', test: 'icmp', class: 'BE', family: 'ipv4' };
    const MANY = 1_500;
    const pathOf = (n: number): object => ({
      ...{ ...END, key: n.toString(16).padStart(32, '0'), dst: 'mail', srcUplink: `isp-${n % 2}`, dstUplink: '' },
      ...{ state: 'down', reason: 'loss', since: CELL.since, interval: null, recentRtt: null, mos: null },
      ...{
        notSentCause: null,
        tlsFailure: null,
        routeHops: null,
        mtuBytes: null,
        mtuBlackHole: null,
        oneWayDelay: null,
      },
    });
    const asked: string[] = [];
    let made: Page;

    beforeAll(async () => {
      made = await browser.newPage();
      const cells = ['mail', 'files'].map((name) => ({
        ...{ ...CELL, src: 'hq', dst: `external/${name}`, state: 'down', lossRatio: 1, meanRttSeconds: null },
      }));
      const answers: Record<string, (query: URLSearchParams) => object> = {
        mesh: () => ({ nodes: ['hq', 'external/mail', 'external/files'], cells, truncated: true }),
        'problem-pairs': () => ({ problems: [{ ...cells[0], lossRatio: 0.9999 }, cells[0]], total: 5 }),
        problems: () => ({ problems: [], departures: [], sitesWithoutProbe: ['branch-7', 'branch-9'] }),
        status: () => ({ paths: MANY, ready: true }),
        probes: () => ({ probes: [] }),
        pauses: () => ({ pauses: [] }),
        paths: (query) => {
          const from = Number(query.get('cursor') ?? 0);
          const end = Math.min(from + Number(query.get('limit')), MANY);
          const paths = Array.from({ length: end - from }, (_, n) => pathOf(from + n));
          return { paths, next: end < MANY ? String(end) : null };
        },
      };
      await made.route('**/api/v1/**', async (route) => {
        const url = new URL(route.request().url());
        const name = url.pathname.split('/')[3]!;
        asked.push(`${name}${url.search}`);
        const isChain = url.pathname.endsWith('/chain');
        await route.fulfill({
          json: isChain ? { place: 'none', text: '', links: [] } : answers[name]!(url.searchParams),
        });
      });
      await made.goto(`http://127.0.0.1:${door.port}/`);
      await made.waitForSelector('#mesh button');
    });
    afterAll(() => made.close());

    test('asks for the mesh once a refresh', () => {
      expect(asked.filter((url) => url.startsWith('mesh'))).toHaveLength(
        asked.filter((url) => url === 'status').length,
      );
    });

    test('says how much is lost, and that there is more than is listed', async () => {
      const problems = await made.locator('#problems li').allTextContents();
      expect(problems[0]).toContain('> 99.9 % lost');
      expect(problems[1]).toContain('100 % lost');
      expect(problems[2]).toBe('and 3 more pairs, less grave');
      expect(problems[3]).toMatch(/^branch-7, branch-9: no probe has reported/);
    });

    test('lists every path of one external target, and tells uplinks apart', async () => {
      await made.getByTitle(/^hq → external\/mail/).click();
      await made.waitForFunction((n) => document.querySelectorAll('#paths tbody tr').length === n, MANY);
      const query = asked.find((url) => url.startsWith('paths?'));
      expect(query).toBe('paths?limit=1000&src_site=hq&dst_site=external&dst=mail');
      const first = made.locator('#paths tbody tr');
      expect(await first.nth(0).locator('td').first().textContent()).toBe('hq/a (isp-0) → external/mail');
      expect(await first.nth(1).locator('td').first().textContent()).toBe('hq/a (isp-1) → external/mail');
    });
  });

  test('shows what it can load, and says what it cannot', async () => {
    const partial = await browser.newPage();
    await partial.route(/api\/v1\/(?:probes|problems)$/, (route) => route.fulfill({ status: 500, body: '{}' }));
    await partial.goto(`http://127.0.0.1:${door.port}/`);
    await partial.waitForFunction(() => document.querySelectorAll('#mesh td.ok').length === 4);
    expect(await partial.textContent('#summary')).toMatch(
      /^26 paths, updated .*could be loaded: probes: 500, problems: 500$/,
    );
    expect(await partial.textContent('#problems')).toBe('Not all problems could be loaded: there may be others.');
    await partial.close();
  });

  test('names the pair, the protocol and the time when something goes down', async () => {
    await mesh.probes.get('branch/a')!.stop('SIGKILL');
    await page.waitForSelector('#problems li.down', { timeout: PATIENCE_MS });
    const problems = await page.locator('#problems li.down').allTextContents();
    expect(problems.join('\n')).toMatch(/hq → branch udp is down: .*since/);
    expect(problems.join('\n')).not.toContain('branch → hq'); // silent is not down
    await page.waitForFunction(
      (text) => document.querySelector('#chain-text')?.textContent === text,
      'The fault is not there: hq is good as far as its LAN gateway.',
      { timeout: PATIENCE_MS },
    );
  });

  test('complains about nothing in the console', () => {
    expect(complaints).toEqual([]);
  });
});
