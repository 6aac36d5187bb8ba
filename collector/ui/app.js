/**
 * The page: what is not right, the mesh as a matrix, and the paths behind a cell. Reads the API every few seconds and
 * writes nothing.
 *
 * @typedef {'ok' | 'degraded' | 'down' | 'no_data'} State
 * @typedef {{ src: string, dst: string, protocol: string, state: State, reason: string, since: string, paths: number,
 *   sent: number, lost: number, lossRatio: number | null, meanRttSeconds: number | null }} Cell
 * @typedef {{ nodes: string[], cells: Cell[], truncated: boolean }} Mesh
 * @typedef {{ problems: Cell[], total: number }} Problems
 * @typedef {{ scope: string, since: string, until: string | null, who: string, reason: string }} Pause
 * @typedef {{ kind: string, subject: string, text: string, since: string }} Problem
 * @typedef {{ place: string, text: string, links: { site: string, segment: string, path: Path }[] }} Chain
 * @typedef {{ key: string, srcSite: string, src: string, srcUplink: string, dstSite: string, dst: string,
 *   dstUplink: string, test: string, class: string,
 *   family: string, state: State, reason: string, since: string,
 *   interval: { sent: number, lost: number, lossRatio: number | null, minRttSeconds: number | null,
 *     meanRttSeconds: number | null, maxRttSeconds: number | null } | null,
 *   recentRtt: { quantileSeconds: { p50: number, p99: number } } | null, mos: number | null, tlsFailure: string | null, notSentCause: string | null,
 *   routeHops: number | null, mtuBytes: number | null, mtuBlackHole: boolean | null,
 *   oneWayDelay: { changeSeconds: { forward: number, reverse: number } } | null }} Path
 * @typedef {{ address: string, name: string | null, as: number | null }} Router
 * @typedef {{ routers: Router[], others: Router[], answers: 'always' | 'seldom' | 'never', sent: number, answered: number,
 *   medianRttSeconds: number | null }} Hop
 * @typedef {{ since: string, ending: 'reached' | 'unreachable' | 'silent' | 'loop', hops: Hop[] }} Route
 */

const REFRESH_MS = 5_000;
/** Rows of the table of paths, and how many are asked for at once. */
const MAX_PATHS = 2_000;
const PAGE = 1_000;
const ALL = 'all';
/** Gravest last. */
const GRAVITY = /** @type {const} */ (['no_data', 'ok', 'degraded', 'down']);
const STATE_TEXT = { ok: 'ok', degraded: 'degraded', down: 'down', no_data: 'no data' };

/**
 * What the person chose.
 * @type {{ by: string, protocol: string, pair: { src: string, dst: string } | undefined,
 *   route: { key: string, title: string } | undefined }}
 */
const chosen = { by: 'site', protocol: ALL, pair: undefined, route: undefined };

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/**
 * @param {string} name
 * @param {Record<string, string>} [attributes]
 * @param {(Node | string)[]} children
 */
function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/**
 * Replaces what a part of the page holds. What had the focus of the keyboard has it again, by its `data-key`.
 * @param {string} id @param {Node[]} children
 */
function replace(id, ...children) {
  const place = byId(id);
  const { activeElement } = document;
  const key =
    activeElement instanceof HTMLElement && place.contains(activeElement) ? activeElement.dataset['key'] : undefined;
  place.replaceChildren(...children);
  if (key === undefined) return;
  const again = place.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (again instanceof HTMLElement) again.focus({ preventScroll: true });
}

/** @param {number | null | undefined} seconds */
function rttText(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  return seconds < 1 ? `${(seconds * 1e3).toFixed(1)} ms` : `${seconds.toFixed(2)} s`;
}

/** @param {number | null | undefined} ratio */
function lossText(ratio) {
  if (ratio === null || ratio === undefined) return 'no data';
  const percent = ratio * 100;
  if (ratio === 0 || ratio >= 1) return `${ratio === 0 ? 0 : 100} %`;
  // Neither none nor all, whatever it rounds to.
  if (percent < 0.001) return '< 0.001 %';
  if (percent >= 99.95) return '> 99.9 %';
  return percent >= 10 ? `${percent.toFixed(percent >= 99 ? 1 : 0)} %` : `${percent.toPrecision(2)} %`;
}

/** @param {string} since */
function sinceText(since) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(since)) / 1_000));
  const age =
    seconds < 90
      ? `${seconds} s`
      : seconds < 5_400
        ? `${Math.round(seconds / 60)} min`
        : `${Math.round(seconds / 3_600)} h`;
  return `since ${new Date(since).toLocaleTimeString()} (${age})`;
}

/** @param {string} reason */
const reasonText = (reason) => reason.replaceAll('_', ' ');

/** @param {string} path @returns {Promise<any>} */
async function load(path) {
  const response = await fetch(`api/v1/${path}`);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

/** One cell for a pair: its protocols merged, the gravest state winning. @param {Cell[]} cells */
function merged(cells) {
  const gravest = cells.reduce((a, b) => (GRAVITY.indexOf(b.state) > GRAVITY.indexOf(a.state) ? b : a));
  const sent = cells.reduce((sum, cell) => sum + cell.sent, 0);
  const lost = cells.reduce((sum, cell) => sum + cell.lost, 0);
  const timed = cells.filter((cell) => cell.meanRttSeconds !== null);
  const answered = timed.reduce((sum, cell) => sum + cell.sent - cell.lost, 0);
  const rtt = timed.reduce((sum, cell) => sum + (cell.meanRttSeconds ?? 0) * (cell.sent - cell.lost), 0);
  return {
    ...gravest,
    lossRatio: sent === 0 ? null : lost / sent,
    meanRttSeconds: answered === 0 ? null : rtt / answered,
  };
}

/** @param {Mesh} mesh */
function drawMesh(mesh) {
  /** @type {Map<string, Cell[]>} */
  const pairs = new Map();
  for (const cell of mesh.cells) {
    if (chosen.protocol !== ALL && cell.protocol !== chosen.protocol) continue;
    const key = `${cell.src} ${cell.dst}`;
    pairs.set(key, [...(pairs.get(key) ?? []), cell]);
  }
  const head = element('tr', {}, element('th'), ...mesh.nodes.map((node) => element('th', { scope: 'col' }, node)));
  const rows = mesh.nodes.map((src) =>
    element(
      'tr',
      {},
      element('th', { scope: 'row' }, src),
      ...mesh.nodes.map((dst) => {
        const cells = pairs.get(`${src} ${dst}`);
        if (cells === undefined) return element('td');
        const cell = merged(cells);
        const button = element('button', {
          type: 'button',
          'data-key': `${src} ${dst}`,
          title: `${src} → ${dst}: ${STATE_TEXT[cell.state]}, ${reasonText(cell.reason)}`,
        });
        button.append(rttText(cell.meanRttSeconds), element('small', {}, lossText(cell.lossRatio)));
        button.addEventListener('click', () => {
          chosen.pair = { src, dst };
          chosen.route = undefined;
          void refresh();
        });
        return element('td', { class: cell.state }, button);
      }),
    ),
  );
  replace('mesh', element('thead', {}, head), element('tbody', {}, ...rows));
}

/** Sites that are named; of more, the number is. */
const NAMED_SITES = 10;

/** @param {string[]} sites of the configuration, from which no probe reports */
function withoutProbeLine(sites) {
  const more = sites.length - NAMED_SITES;
  const names = sites.slice(0, NAMED_SITES).join(', ') + (more > 0 ? ` and ${more} more` : '');
  const text = `: no probe has reported, or it left for good. Nothing is known of ${sites.length === 1 ? 'this site' : 'these sites'}.`;
  return element('li', { class: 'no_data' }, element('strong', {}, names), text);
}

/**
 * What is undefined could not be loaded: then the list does not say that nothing is wrong.
 * @param {Problems | undefined} bad @param {Pause[] | undefined} pauses @param {Problem[] | undefined} known
 * @param {string[]} withoutProbe @param {number | undefined} paths
 */
function drawProblems(bad, pauses, known, withoutProbe, paths) {
  const isWhole = bad !== undefined && pauses !== undefined && known !== undefined;
  const { problems, total } = bad ?? { problems: [], total: 0 };
  const lines = problems.map((cell) =>
    element(
      'li',
      { class: cell.state },
      element('strong', {}, `${cell.src} → ${cell.dst}`),
      ` ${cell.protocol} is ${STATE_TEXT[cell.state]}: ${reasonText(cell.reason)}, ${lossText(cell.lossRatio)} lost, ` +
        `${rttText(cell.meanRttSeconds)}, ${sinceText(cell.since)}`,
    ),
  );
  const well = paths === 0 ? 'No path is measured.' : 'Nothing: every path that has data is within its objectives.';
  const nothing = element('li', { class: 'quiet' }, well);
  const left = total - problems.length;
  const more = left > 0 ? [element('li', { class: 'quiet' }, `and ${left} more pairs, less grave`)] : [];
  const all = [...(known ?? []).map(problemLine), ...lines, ...more];
  const unknown = withoutProbe.length > 0 ? [withoutProbeLine(withoutProbe)] : [];
  const missing = element('li', { class: 'no_data' }, 'Not all problems could be loaded: there may be others.');
  const empty = isWhole ? [nothing] : [];
  const rest = isWhole ? [] : [missing];
  replace('problems', ...(pauses ?? []).map(pauseLine), ...(all.length > 0 ? all : empty), ...rest, ...unknown);
}

/** @param {Problem} problem */
function problemLine({ kind, subject, text, since }) {
  const state = ['broker_lost', 'site_unreachable', 'uplink_down'].includes(kind) ? 'down' : 'degraded';
  return element('li', { class: state }, element('strong', {}, subject), ` ${text}, ${sinceText(since)}`);
}

/** @param {Pause} pause */
function pauseLine({ scope, since, until, who, reason }) {
  const end = until === null ? '' : `, until ${new Date(until).toLocaleTimeString()}`;
  const why = reason === '' ? '' : `: ${reason}`;
  return element(
    'li',
    { class: 'no_data' },
    element('strong', {}, scope),
    ` is paused by ${who}, ${sinceText(since)}${end}${why}`,
  );
}

/** @param {number | undefined} seconds one-way delay more than it was */
function changeText(seconds) {
  if (seconds === undefined) return '';
  return `${seconds < 0 ? '−' : '+'}${(Math.abs(seconds) * 1_000).toFixed(1)} ms`;
}

/** With the uplinks, where there are any: paths of one pair differ in them. @param {Path} path */
function pathText({ srcSite, src, srcUplink, dstSite, dst, dstUplink }) {
  const over = (/** @type {string} */ uplink) => (uplink === '' ? '' : ` (${uplink})`);
  return `${srcSite}/${src}${over(srcUplink)} → ${dstSite}/${dst}${over(dstUplink)}`;
}

/** Opens the route of a path, where it is followed. @param {Path} path @returns {Node | string} */
function routeButton(path) {
  if (path.routeHops === null) return '';
  const title = `Route of ${path.test}, ${path.family}`;
  const button = element('button', { type: 'button', title, 'data-key': path.key });
  button.append(`${path.routeHops} hop${path.routeHops === 1 ? '' : 's'}`);
  button.addEventListener('click', () => {
    chosen.route = { key: path.key, title: `${pathText(path)}, ${path.test}` };
    void refresh();
  });
  return button;
}

/** @param {Path} path */
function mtuText({ mtuBytes, mtuBlackHole }) {
  if (mtuBytes === null) return '';
  return mtuBlackHole ? `${mtuBytes}, larger vanish` : String(mtuBytes);
}

const ENDING_TEXT = {
  reached: '',
  unreachable: 'A router says that the destination cannot be reached.',
  silent: 'Nothing answers beyond.',
  loop: 'The packets go round in circles.',
};

/** @param {Router} router */
function routerText({ address, name, as }) {
  const more = [name, as === null ? null : `AS ${as}`].filter((part) => part !== null);
  return more.length === 0 ? address : `${address} (${more.join(', ')})`;
}

/** @param {Hop} hop */
function hopLine(hop) {
  const routers = hop.routers.length === 0 ? 'silent' : hop.routers.map(routerText).join(' or ');
  const seldom = hop.answers === 'seldom' ? `, answered ${hop.answered} of ${hop.sent}, which is no loss` : '';
  const rtt = hop.medianRttSeconds === null ? '' : ` ${rttText(hop.medianRttSeconds)}`;
  const others = hop.others.length === 0 ? '' : `; other flows: ${hop.others.map(routerText).join(', ')}`;
  return element('li', hop.routers.length === 0 ? { class: 'quiet' } : {}, `${routers}${rtt}${seldom}${others}`);
}

/** The route that was asked for, and the one before. */
async function drawRoute() {
  const { route } = chosen;
  /** @type {{ changes: number, current: Route, previous: Route | null } | undefined} */
  const routes = route && (await load(`paths/${route.key}/route`).catch(() => undefined));
  byId('route').hidden = routes === undefined;
  if (route === undefined || routes === undefined) return;
  const { changes, current, previous } = routes;
  byId('route-title').textContent = `Route ${route.title}`;
  const ending = ENDING_TEXT[current.ending];
  byId('route-text').textContent =
    `${sinceText(current.since)}, ${changes} change${changes === 1 ? '' : 's'}. ${ending}`.trim();
  replace('route-hops', ...current.hops.map(hopLine));
  const before = previous?.hops.map((hop) => hop.routers.map(({ address }) => address).join('/') || '*').join(' → ');
  byId('route-before').textContent = before === undefined ? '' : `Before: ${before}`;
}

/** @param {Path[]} paths @param {boolean} isCut @param {{ src: string, dst: string }} pair */
function drawPaths(paths, isCut, pair) {
  const columns = [
    'path',
    'test',
    'class',
    'family',
    'state',
    'loss',
    'min',
    'mean',
    'max',
    'median',
    'p99',
    'there',
    'back',
    'route',
    'MTU',
    'MOS',
    '',
  ];
  const head = element('tr', {}, ...columns.map((column) => element('th', { scope: 'col' }, column)));
  const rows = paths.map((path) => {
    const interval = path.interval;
    const cells = [
      pathText(path),
      path.test,
      path.class,
      path.family,
      STATE_TEXT[path.state],
      lossText(interval?.lossRatio),
      rttText(interval?.minRttSeconds),
      rttText(interval?.meanRttSeconds),
      rttText(interval?.maxRttSeconds),
      rttText(path.recentRtt?.quantileSeconds.p50),
      rttText(path.recentRtt?.quantileSeconds.p99),
      changeText(path.oneWayDelay?.changeSeconds.forward),
      changeText(path.oneWayDelay?.changeSeconds.reverse),
      routeButton(path),
      mtuText(path),
      path.mos === null ? '' : path.mos.toFixed(1),
      `${reasonText(path.reason)}${path.notSentCause === null ? '' : ` (${reasonText(path.notSentCause)})`}${path.tlsFailure === null ? '' : `, TLS: ${reasonText(path.tlsFailure)}`}, ${sinceText(path.since)}`,
    ];
    return element(
      'tr',
      {},
      ...cells.map((text, i) =>
        element('td', i === 4 ? { class: path.state } : i === cells.length - 1 ? { class: 'quiet' } : {}, text),
      ),
    );
  });
  const title = `Paths ${pair.src} → ${pair.dst}`;
  byId('paths-title').textContent = isCut ? `${title}: the first ${paths.length}` : title;
  replace('paths', element('thead', {}, head), element('tbody', {}, ...rows));
  byId('paths-section').hidden = false;
}

/** The gravest path's segments, where its sites have any. @param {Path[]} paths */
async function drawChain(paths) {
  const gravest = paths.reduce(
    (a, b) => (a === undefined || GRAVITY.indexOf(b.state) > GRAVITY.indexOf(a.state) ? b : a),
    /** @type {Path | undefined} */ (undefined),
  );
  /** @type {Chain | undefined} */
  const chain = gravest === undefined ? undefined : await load(`paths/${gravest.key}/chain`);
  byId('chain').hidden = chain === undefined || chain.links.length === 0;
  if (gravest === undefined || chain === undefined) return;
  const link = (/** @type {Path} */ path, /** @type {string} */ name) =>
    element(
      'li',
      { class: path.state },
      element('strong', {}, name),
      ` ${STATE_TEXT[path.state]}, ${lossText(path.interval?.lossRatio)}, ${rttText(path.interval?.meanRttSeconds)}`,
    );
  byId('chain-text').textContent = chain.text;
  replace(
    'chain-links',
    ...chain.links.map(({ site, segment, path }) => link(path, `${site} ${segment.replaceAll('-', ' ')}`)),
    link(gravest, `${gravest.dstSite}/${gravest.dst} (${gravest.test}, ${gravest.family})`),
  );
}

/** @param {string} id @param {readonly string[]} values @param {string} current @param {(value: string) => void} take */
function fillSelect(id, values, current, take) {
  const select = /** @type {HTMLSelectElement} */ (byId(id));
  if ([...select.options].map((option) => option.value).join() !== values.join()) {
    select.replaceChildren(...values.map((value) => element('option', { value }, value)));
    select.value = current;
  }
  select.onchange = () => {
    take(select.value);
    void refresh();
  };
}

/**
 * All paths of a cell, page by page, up to a bound. A node is a site, `site/host`, or `external/target` also between sites.
 * @param {{ src: string, dst: string }} pair @returns {Promise<{ paths: Path[], isCut: boolean }>}
 */
async function loadPaths({ src, dst }) {
  const query = new URLSearchParams({ limit: String(PAGE) });
  for (const [end, node] of /** @type {const} */ ([
    ['src', src],
    ['dst', dst],
  ])) {
    const slash = node.indexOf('/');
    query.set(`${end}_site`, slash === -1 ? node : node.slice(0, slash));
    if (slash !== -1) query.set(end, node.slice(slash + 1));
  }
  if (chosen.protocol !== ALL) query.set('protocol', chosen.protocol);
  /** @type {Path[]} */
  const all = [];
  for (;;) {
    /** @type {{ paths: Path[], next: string | null }} */
    const { paths, next } = await load(`paths?${query}`);
    all.push(...paths);
    if (next === null) return { paths: all.slice(0, MAX_PATHS), isCut: all.length > MAX_PATHS };
    if (all.length >= MAX_PATHS) return { paths: all.slice(0, MAX_PATHS), isCut: true };
    query.set('cursor', next);
  }
}

/**
 * Draws what was loaded, and nothing where it was not.
 * @template T @param {PromiseSettledResult<T>} result @param {(value: T) => void} draw @param {string[]} failures
 */
function drawLoaded(result, draw, failures) {
  if (result.status === 'rejected') {
    failures.push(String(result.reason?.message ?? result.reason));
    return;
  }
  try {
    draw(result.value);
  } catch (error) {
    failures.push(String(error));
  }
}

/** @template T @param {PromiseSettledResult<T>} result @returns {T | undefined} */
const loaded = (result) => (result.status === 'fulfilled' ? result.value : undefined);

/** What the summary says, and that it is old or not whole where something could not be loaded. @param {string[]} failures */
function drawSummary(/** @type {string} */ text, failures) {
  const missing = failures.length === 0 ? '' : `; not everything could be loaded: ${failures.join(', ')}`;
  byId('summary').textContent = `${text}, updated ${new Date().toLocaleTimeString()}${missing}`;
}

async function refresh() {
  /** @type {[PromiseSettledResult<Mesh>, PromiseSettledResult<Problems>, PromiseSettledResult<{ paths: number, ready: boolean }>, PromiseSettledResult<{ probes: { presence: string }[] }>, PromiseSettledResult<{ pauses: Pause[] }>, PromiseSettledResult<{ problems: Problem[], sitesWithoutProbe: string[] }>]} */
  const results = await Promise.allSettled([
    load(`mesh?by=${chosen.by}`),
    load('problem-pairs'),
    load('status'),
    load('probes'),
    load('pauses'),
    load('problems'),
  ]);
  const [mesh, pairs, status, fleet, pauses, problems] = results;
  if (mesh.status === 'rejected' && results.every((result) => result.status === 'rejected')) {
    byId('summary').textContent = `The collector does not answer: ${String(mesh.reason)}`;
    return;
  }
  /** @type {string[]} */
  const failures = [];
  /** @type {string[]} */
  const facts = [];
  drawLoaded(
    fleet,
    ({ probes }) => {
      const live = probes.filter((probe) => probe.presence === 'live').length;
      facts.push(`${live} of ${probes.length} probes live`);
    },
    failures,
  );
  drawLoaded(status, ({ paths }) => facts.push(`${paths} paths`), failures);
  drawLoaded(
    mesh,
    (shown) => {
      if (shown.truncated) facts.push('the mesh is too large to show whole');
      const protocols = [...new Set(shown.cells.map((cell) => cell.protocol))].sort();
      fillSelect('by', ['site', 'host'], chosen.by, (value) => {
        chosen.by = value;
        chosen.pair = undefined;
        chosen.route = undefined;
        byId('paths-section').hidden = true;
      });
      fillSelect('protocol', [ALL, ...protocols], chosen.protocol, (value) => (chosen.protocol = value));
      drawMesh(shown);
    },
    failures,
  );
  drawLoaded(pairs, () => undefined, failures);
  drawLoaded(pauses, () => undefined, failures);
  drawLoaded(problems, () => undefined, failures);
  try {
    const known = loaded(problems);
    drawProblems(
      loaded(pairs),
      loaded(pauses)?.pauses,
      known?.problems,
      known?.sitesWithoutProbe ?? [],
      loaded(status)?.paths,
    );
  } catch (error) {
    failures.push(String(error));
  }
  drawSummary(facts.join(', '), failures);
  try {
    if (chosen.pair !== undefined) {
      const { pair } = chosen;
      const { paths, isCut } = await loadPaths(pair);
      // Another one was chosen meanwhile, which has a refresh of its own.
      if (chosen.pair !== pair) return;
      drawPaths(paths, isCut, pair);
      await drawRoute();
      await drawChain(paths);
    }
  } catch (error) {
    drawSummary(facts.join(', '), [...failures, String(error)]);
  }
}

void refresh();
setInterval(() => void refresh(), REFRESH_MS);
