/** What a person writes: topology files, and what a link does, in files and on the command line. */
import { readFileSync } from 'node:fs';
import { NS_PER_S, NS_PER_US, parseBytes, parseDurationNs, parsePercentRatio } from '@wanscope/shared';
import { parse } from 'yaml';
import { z } from 'zod';
import { core, link, site, topologyProblem, type LabLinkChange, type Topology, type TopologyNode } from './topology.ts';

const duration = z.string().transform((value, context) => {
  const ns = parseDurationNs(value);
  if (ns !== undefined) return ns / NS_PER_US;
  context.addIssue({ code: 'custom', message: `${value}: must be a duration such as 5ms` });
  return z.NEVER;
});
const ratio = z.string().transform((value, context) => {
  const parsed = parsePercentRatio(value);
  if (parsed !== undefined) return parsed;
  context.addIssue({ code: 'custom', message: `${value}: must be a percentage such as 0.5%` });
  return z.NEVER;
});
const bitRate = z.string().transform((value, context) => {
  const match = /^(\d+(?:\.\d+)?)(k|M|G)bit\/s$/.exec(value);
  if (match !== null) return Number(match[1]) * { k: 1e3, M: 1e6, G: 1e9 }[match[2] as 'k' | 'M' | 'G'];
  context.addIssue({ code: 'custom', message: `${value}: must be a rate such as 10Mbit/s` });
  return z.NEVER;
});
const size = z.string().transform((value, context) => {
  const parsed = parseBytes(value);
  if (parsed !== undefined) return parsed;
  context.addIssue({ code: 'custom', message: `${value}: must be a size such as 64KB` });
  return z.NEVER;
});

const power = z.string().transform((value, context) => {
  const match = /^(-?\d{1,2}(?:\.\d{1,2})?)\s?dBm$/.exec(value);
  if (match !== null) return Number(match[1]);
  context.addIssue({ code: 'custom', message: `${value}: must be a power such as -18dBm` });
  return z.NEVER;
});
const perSecond = z.string().transform((value, context) => {
  const match = /^([1-9]\d{0,5})\/s$/.exec(value);
  if (match !== null) return Number(match[1]);
  context.addIssue({ code: 'custom', message: `${value}: must be a rate such as 10/s` });
  return z.NEVER;
});

/** What a person writes about a link, in a topology or scenario file or on the command line. */
export const linkWordsSchema = z
  .strictObject({
    delay: duration.optional(),
    jitter: z
      .strictObject({
        kind: z.enum(['uniform', 'normal']).default('uniform'),
        by: duration,
        keepOrder: z.boolean().default(true),
      })
      .nullable()
      .optional(),
    loss: ratio.optional(),
    burst: z
      .strictObject({ p: z.number(), r: z.number(), h: z.number().default(0), k: z.number().default(1) })
      .nullable()
      .optional(),
    lossByDscp: z
      .record(z.string().regex(/^\d{1,2}$/), ratio)
      .nullable()
      .optional(),
    duplicate: ratio.optional(),
    reorder: z.strictObject({ ratio, by: duration }).nullable().optional(),
    rate: z.strictObject({ bits: bitRate, queue: size }).nullable().optional(),
    mtu: z.int().min(68).max(65_535).nullable().optional(),
    mtuTooBig: z.boolean().optional(),
    down: z.boolean().optional(),
    blackhole: z.boolean().optional(),
    corrupt: ratio.optional(),
    receivePower: power.optional(),
  })
  .transform((words): LabLinkChange => {
    const { delay, jitter, reorder, rate, receivePower, ...same } = words;
    return present({
      ...same,
      delayUs: delay,
      jitter: jitter && { kind: jitter.kind, us: jitter.by, keepOrder: jitter.keepOrder },
      reorder: reorder && { ratio: reorder.ratio, extraUs: reorder.by },
      rate: rate && { bitsPerSecond: rate.bits, queueBytes: rate.queue },
      receivePowerDbm: receivePower,
    });
  });

const nodeName = z.string().regex(/^[a-z0-9-]{1,24}$/, 'must be 1 to 24 of a-z, 0-9 and -');

const routerWords = {
  location: z.tuple([z.number(), z.number()]).optional(),
  policeIcmp: perSecond.optional(),
  hidden: z.boolean().optional(),
};

const topologySchema = z.strictObject({
  sites: z.record(
    nodeName,
    z.strictObject({
      ...routerWords,
      containers: z.int().min(0).max(50).default(0),
      nat: z.boolean().optional(),
      firewall: z.strictObject({ idle: duration }).optional(),
      service: z.boolean().optional(),
    }),
  ),
  cores: z.record(nodeName, z.strictObject(routerWords)).default({}),
  links: z
    .array(
      z.strictObject({
        a: nodeName,
        b: nodeName,
        uplink: nodeName.optional(),
        metric: z.int().min(1).optional(),
        settings: linkWordsSchema.optional(),
      }),
    )
    .min(1),
  ecmp: z.boolean().optional(),
  overlay: z.boolean().optional(),
  networks: z
    .record(
      nodeName,
      z.strictObject({ sites: z.array(nodeName).min(1), containers: z.int().min(1).max(20).default(1) }),
    )
    .default({}),
});

const US_PER_S = NS_PER_S / NS_PER_US;

/** @throws Error naming file, place and rule when the file is not a topology. */
export function loadTopology(file: string): Topology {
  const parsed = topologySchema.safeParse(parse(readFileSync(file, 'utf8')));
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new Error(`${file}: ${issue.path.join('.')}: ${issue.message}`);
  }
  const { sites, cores, links, networks, ecmp, overlay } = parsed.data;
  const nodes = [
    ...Object.entries(cores).map(([name, { location, ...options }]) => core(name, location, present(options))),
    ...Object.entries(sites).map(([name, { location, containers, firewall, ...options }]) =>
      site(
        name,
        containers,
        location,
        present({
          ...options,
          // conntrack counts whole seconds
          firewall: firewall === undefined ? undefined : { idleS: Math.max(1, Math.round(firewall.idle / US_PER_S)) },
        }),
      ),
    ),
  ];
  const nodeOf = (name: string): TopologyNode => {
    const node = nodes.find((candidate) => candidate.name === name);
    if (node === undefined) throw new Error(`${file}: links: no node ${name}`);
    return node;
  };
  const topology: Topology = {
    nodes,
    links: links.map(({ a, b, uplink, metric, settings }) => {
      const made = link(nodeOf(a), nodeOf(b), present({ uplink, metric }));
      return { ...made, settings: { ...made.settings, ...settings } };
    }),
    ...present({ ecmp, overlay }),
    networks: Object.entries(networks).map(([name, network]) => ({ name, ...network })),
  };
  const problem = topologyProblem(topology);
  if (problem !== undefined) throw new Error(`${file}: ${problem}`);
  return topology;
}

/** Without the members that are undefined. */
function present<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as never;
}
