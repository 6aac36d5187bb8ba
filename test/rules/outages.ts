/**
 * Unit tests for promtool of what each alert does in an outage: it fires while the fault is there, and never starts once it is over.
 * Everything is scraped and evaluated every 10 s. The latest bad sample is that of the outage's end.
 */

const STEP_S = 10;
const START_S = 240;
/** The newest window of the rules holds an end for two scrapes; then it is seen. */
const SEEN_S = 20;
const OUTAGES_S = [30, 90, 180, 600];
/** What is left in a window shows for so long. */
const BEHIND_S = 240;
const LONGEST_S = START_S + Math.max(...OUTAGES_S) + BEHIND_S;

/** True where a sample, at so many seconds, is one of the outage. */
type IsBad = (atS: number) => boolean;

export interface Fault {
  readonly name: string;
  readonly alert: string;
  /** The configuration that the rules are for; that of the defaults when absent. */
  readonly config?: string;
  readonly fires: boolean;
  /** Of the start: from then on it fires. */
  readonly firesAfterS: number;
  /** How long it fires at most when the fault is over, where that is longer than its end takes to be seen. It starts before in any case. */
  readonly lastsS?: number;
  /** Each series with its values. */
  readonly series: (isBad: IsBad, outage: { startS: number; endS: number }) => Readonly<Record<string, string>>;
}

const samplesS = Array.from({ length: LONGEST_S / STEP_S + 1 }, (_unused, i) => i * STEP_S);

/** A value for each scrape. */
function gaugeOf(value: (atS: number) => number): string {
  return samplesS.map(value).join(' ');
}

/** Grows before each scrape. */
function counterOf(growth: (atS: number) => number): string {
  let sum = 0;
  return samplesS.map((atS) => (sum += growth(atS))).join(' ');
}

const PAIR = 'network="default",src_site="a",dst_site="b",test="t",class="BE",family="ipv4"';
const NAMED = 'src_site="a",dst_site="b",test="t"';

function lossOf(sent: number, lost: number, isBad: IsBad): Readonly<Record<string, string>> {
  return {
    [`wan_site_probes_sent_total{${PAIR}}`]: counterOf(() => sent),
    [`wan_site_probes_lost_total{${PAIR}}`]: counterOf((atS) => (isBad(atS) ? lost : 0)),
    [`wan_objective_loss_ratio{${NAMED}}`]: gaugeOf(() => 0.01),
  };
}

function serviceOf(
  labels: string,
  outcome: string,
  perStep: (atS: number) => number,
  isBad: IsBad,
): Readonly<Record<string, string>> {
  return {
    [`wan_site_outcomes_total{src_site="a",${labels},outcome="${outcome}"}`]: counterOf((atS) =>
      isBad(atS) ? perStep(atS) : 0,
    ),
    [`wan_site_outcomes_total{src_site="a",${labels},outcome="answered"}`]: counterOf((atS) =>
      isBad(atS) ? 0 : perStep(atS),
    ),
  };
}

function stateOf(name: string, bad: number, good: number): Fault['series'] {
  return (isBad) => ({ [name]: gaugeOf((atS) => (isBad(atS) ? bad : good)) });
}

const down = (isDown: IsBad): Readonly<Record<string, string>> => ({
  [`wan_site_state{${PAIR},state="down"}`]: gaugeOf((atS) => (isDown(atS) ? 1 : 0)),
  [`wan_site_state{${PAIR},state="ok"}`]: gaugeOf((atS) => (isDown(atS) ? 0 : 1)),
});

/** `firesAfterS`: docs/alerts.md. */
export const FAULTS: readonly Fault[] = [
  {
    // 5 in 20 are a quarter: -ln(0.75) = 0.29, and 60 without loss make 17 > 5.
    name: 'a quarter is lost at two probes a second',
    alert: 'WanPathLoss',
    fires: true,
    firesAfterS: 90,
    series: (isBad) => lossOf(20, 5, isBad),
  },
  {
    // A tenth: -ln(0.9) = 0.105; 60 without loss in a minute make 6.3 > 5.
    name: 'a tenth is lost at one probe a second',
    alert: 'WanPathLoss',
    fires: true,
    firesAfterS: 90,
    lastsS: 70,
    series: (isBad) => lossOf(10, 1, isBad),
  },
  {
    name: 'everything is lost',
    alert: 'WanPathLoss',
    fires: false,
    firesAfterS: 0,
    // Down after two intervals.
    series: (isBad, { startS }) => ({ ...lossOf(20, 20, isBad), ...down((atS) => isBad(atS) && atS >= startS + 20) }),
  },
  {
    name: 'everything is lost',
    alert: 'WanPathDown',
    fires: true,
    firesAfterS: 60,
    series: (isBad, { startS }) => down((atS) => isBad(atS) && atS >= startS + 20),
  },
  {
    // 20 answers of 200 ms in place of 20 ms, of which 50 ms were promised.
    name: 'answers are slow',
    alert: 'WanPathSlow',
    fires: true,
    firesAfterS: 90,
    series: (isBad) => ({
      [`wan_site_rtt_seconds_sum{${PAIR}}`]: counterOf((atS) => (isBad(atS) ? 4 : 0.4)),
      [`wan_site_rtt_seconds_count{${PAIR}}`]: counterOf(() => 20),
      [`wan_objective_rtt_seconds{${NAMED}}`]: gaugeOf(() => 0.05),
    }),
  },
  {
    name: 'a web server is stopped',
    alert: 'WanServiceFails',
    fires: true,
    firesAfterS: 150,
    series: (isBad) => serviceOf('dst_site="external",test="t",protocol="http"', 'refused', () => 10, isBad),
  },
  {
    // Fails at 60, 120, 180 s; what always failed and then is good once is over.
    name: 'a web server that is asked once a minute is stopped',
    alert: 'WanServiceFails',
    config: 'tests:\n  t: { protocol: http, rate: 1/60s }\n',
    fires: true,
    firesAfterS: 180,
    lastsS: 60 + SEEN_S,
    series: (isBad) =>
      serviceOf('dst_site="external",test="t",protocol="http"', 'refused', (atS) => (atS % 60 === 0 ? 1 : 0), isBad),
  },
  {
    // -ln(1 - 0.3) = 0.36; 35 s of ten answers each in 10 s make 35 * 0.36 = 12 > 5.
    name: 'a resolver fails for three questions in ten',
    alert: 'WanServiceFails',
    fires: true,
    firesAfterS: 150,
    series: (isBad) => ({
      'wan_site_outcomes_total{src_site="a",dst_site="external",test="t",protocol="dns",outcome="servfail"}': counterOf(
        (atS) => (isBad(atS) ? 3 : 0),
      ),
      'wan_site_outcomes_total{src_site="a",dst_site="external",test="t",protocol="dns",outcome="answered"}': counterOf(
        (atS) => (isBad(atS) ? 7 : 10),
      ),
    }),
  },
  {
    name: 'a probe is dead, and the system refuses what its server would answer',
    alert: 'WanServiceFails',
    fires: false,
    firesAfterS: 0,
    series: (isBad, { startS }) => ({
      ...serviceOf('dst_site="b",test="t",protocol="http"', 'refused', () => 10, isBad),
      'wan_probe_live{site="b",probe="r"}': gaugeOf((atS) => (isBad(atS) && atS > startS + 40 ? 0 : 1)),
    }),
  },
  {
    name: 'a path cannot be measured',
    alert: 'WanPathUnmeasured',
    fires: true,
    firesAfterS: 130,
    series: stateOf(`wan_site_unmeasured_paths{${PAIR},cause="unresolved"}`, 2, 0),
  },
  {
    name: 'large packets vanish',
    alert: 'WanMtuBlackHole',
    fires: true,
    firesAfterS: 40,
    series: stateOf(`wan_path_mtu_black_hole{${PAIR},src="r",dst="r"}`, 1, 0),
  },
  {
    name: 'a reflector gets too much',
    alert: 'WanReflectorOverflow',
    fires: true,
    firesAfterS: 150,
    series: (isBad) => ({
      'wan_probe_reflector_overflow_total{site="a",probe="r"}': counterOf((atS) => (isBad(atS) ? 1_000 : 0)),
    }),
  },
  {
    name: 'a site is unreachable',
    alert: 'WanSiteUnreachable',
    fires: true,
    firesAfterS: 40,
    series: stateOf('wan_site_reachable{site="b"}', 0, 1),
  },
  {
    name: 'a probe is silent',
    alert: 'WanProbeSilent',
    fires: true,
    firesAfterS: 70,
    series: stateOf('wan_probe_live{site="b",probe="r"}', 0, 1),
  },
  {
    name: 'a collector has no broker',
    alert: 'WanBrokerLost',
    fires: true,
    firesAfterS: 40,
    series: stateOf('wanscope_collector_bus_connected{job="wanscope",instance="c"}', 0, 1),
  },
  {
    name: 'a collector cannot be scraped',
    alert: 'WanCollectorStale',
    fires: true,
    firesAfterS: 70,
    series: stateOf('up{job="wanscope",instance="c"}', 0, 1),
  },
  {
    name: 'a collector takes in nothing',
    alert: 'WanCollectorStale',
    fires: true,
    // The latest report is over 60 s old, for a minute.
    firesAfterS: 140,
    series: (isBad, { startS }) => ({
      'up{job="wanscope",instance="c"}': gaugeOf(() => 1),
      'wanscope_collector_last_report_timestamp_seconds{job="wanscope",instance="c"}': gaugeOf((atS) =>
        isBad(atS) ? startS : atS,
      ),
    }),
  },
];

/** The unit tests of a fault, for outages of each length. */
export function outageTests({ name, alert, fires, firesAfterS, lastsS, series }: Fault): object[] {
  return OUTAGES_S.map((lengthS) => {
    const endS = START_S + lengthS;
    const isBad = (atS: number): boolean => atS > START_S && atS <= endS;
    const overS = endS + SEEN_S;
    const goneS = endS + Math.max(SEEN_S, lastsS ?? 0);
    const mustFire = (atS: number): boolean => fires && lengthS >= 180 && atS >= START_S + firesAfterS && atS <= endS;
    // What does not fire by the time the end is seen does not start then.
    const mayFire = (atS: number): boolean => fires && atS > START_S && atS <= (lengthS >= firesAfterS ? goneS : overS);
    const expr = `count(ALERTS{alertname="${alert}",alertstate="firing"})`;
    return {
      name: `${alert}: ${name} for ${lengthS} s`,
      interval: `${STEP_S}s`,
      input_series: Object.entries(series(isBad, { startS: START_S, endS })).map(([one, values]) => ({
        series: one,
        values,
      })),
      promql_expr_test: samplesS.flatMap((atS) => {
        if (atS > endS + BEHIND_S) return [];
        const expected = mustFire(atS) ? [{ labels: '{}', value: 1 }] : [];
        return mustFire(atS) || !mayFire(atS) ? [{ expr, eval_time: `${atS}s`, exp_samples: expected }] : [];
      }),
    };
  });
}
