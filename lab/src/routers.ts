/** Makes a node of the plan real: a namespace that routes, its LAN and containers, its NAT and its packet filters. */
import { ip, nft, type Namespaces } from './namespaces.ts';
import { containerAddresses, ownAddresses, type NodePlan } from './routing.ts';

/** Routing tables of uplinks: 101, 102, … */
const FIRST_UPLINK_TABLE = 101;
/** Towards the NAT. Links are wan1, wan2, … */
const NAT_DEVICE = 'wan0';
const INSIDE_DEVICE = 'inside';
/** RFC 4291 link-local addresses between router and NAT. */
const NAT_LINK6 = 'fe80::1';
const ROUTER_LINK6 = 'fe80::2';

/** After how long without a packet a firewall forgets a flow. */
const IDLE_TIMEOUTS = [
  'netfilter.nf_conntrack_udp_timeout',
  'netfilter.nf_conntrack_udp_timeout_stream',
  'netfilter.nf_conntrack_icmp_timeout',
  'netfilter.nf_conntrack_icmpv6_timeout',
  'netfilter.nf_conntrack_tcp_timeout_established',
] as const;

/** Namespace of a node whose links end in it: its NAT's where it has one. */
export function wanNamespace({ node }: NodePlan): string {
  return node.nat === true ? `${node.name}-nat` : node.name;
}

export interface RouterOptions {
  /** Flows are spread over ways of equal cost, by addresses and ports, as this number has it. */
  readonly ecmpSeed: number | undefined;
}

/** Makes router, containers and NAT, with all addresses, and without routes to anywhere else. */
export function makeRouter(namespaces: Namespaces, plan: NodePlan, options: RouterOptions): void {
  const { node } = plan;
  const namespace = addForwarding(namespaces, node.name, options);
  if (hasLan(plan)) ip(['link add name lan type bridge forward_delay 0', 'link set lan up'], namespace);
  ip(addressCommands(plan, 'add'), namespace);
  node.containers.forEach((container, at) => {
    const inside = namespaces.add(`${node.name}-${container}`);
    const port = `port${at + 1}`;
    ip(
      [
        `link add name ${port} type veth peer name eth0 netns ${inside}`,
        `link set ${port} master lan`,
        `link set ${port} up`,
      ],
      namespace,
    );
    ip([...containerAddressCommands(plan, at, 'add'), 'link set eth0 up', ...containerRoutes(plan)], inside);
  });
  if (node.nat === true) makeNat(namespaces, plan, options);
  filterPackets(namespace, plan);
  const idleS = node.firewall?.idleS;
  if (idleS === undefined) return;
  namespaces.sysctl(node.name, Object.fromEntries(IDLE_TIMEOUTS.map((timeout) => [timeout, idleS])));
}

/** Gives a router and what is behind it the addresses of another plan. */
export function moveRouter(
  namespaces: Namespaces,
  before: NodePlan,
  after: NodePlan,
  deviceOfLink: (link: string) => string,
): void {
  const { node } = after;
  const namespace = namespaces.fullName(node.name);
  ip(addressCommands(after, 'add'), namespace);
  node.containers.forEach((container, at) => {
    ip(
      [
        ...containerAddressCommands(after, at, 'add'),
        ...containerRoutes(after),
        ...containerAddressCommands(before, at, 'delete'),
      ],
      namespaces.fullName(`${node.name}-${container}`),
    );
  });
  ip(natCommands(after, 'add').outside, namespaces.fullName(wanNamespace(after)));
  ip(natCommands(after, 'add').router, namespace);
  translate(namespaces, after);
  ip(natCommands(before, 'delete').outside, namespaces.fullName(wanNamespace(after)));
  ip(natCommands(before, 'delete').router, namespace);
  ip(uplinkCommands(before, 'delete', deviceOfLink), namespace);
  ip(uplinkCommands(after, 'add', deviceOfLink), namespace);
  ip(addressCommands(before, 'delete'), namespace);
}

/** What has an uplink's address as its source leaves by that uplink. */
export function makeUplinkRules(namespaces: Namespaces, plan: NodePlan, deviceOfLink: (link: string) => string): void {
  ip(uplinkCommands(plan, 'add', deviceOfLink), namespaces.fullName(plan.node.name));
}

type Verb = 'add' | 'delete';

function addForwarding(namespaces: Namespaces, name: string, { ecmpSeed }: RouterOptions): string {
  const namespace = namespaces.add(name);
  namespaces.sysctl(name, {
    'ipv4.ip_forward': 1,
    'ipv6.conf.all.forwarding': 1,
    // Forwards all the same, but joins no group of routers, whose reports truth would count.
    'ipv6.conf.default.forwarding': 0,
    'ipv4.conf.all.rp_filter': 0,
    'ipv4.conf.default.rp_filter': 0,
    'ipv6.conf.default.accept_dad': 0,
    'ipv4.icmp_ratelimit': 0,
    'ipv6.icmp.ratelimit': 0,
    ...(ecmpSeed === undefined
      ? {}
      : {
          'ipv4.fib_multipath_hash_policy': 1,
          'ipv6.fib_multipath_hash_policy': 1,
          'ipv4.fib_multipath_hash_seed': ecmpSeed,
        }),
  });
  return namespace;
}

const hasLan = ({ node }: NodePlan): boolean => node.containers.length > 0;

function addressCommands(plan: NodePlan, verb: Verb): string[] {
  const { ipv4, ipv6 } = ownAddresses(plan);
  const device = hasLan(plan) ? 'lan' : 'lo';
  const nodad = verb === 'add' ? ' nodad' : '';
  return [
    `address ${verb} ${ipv4}/${hasLan(plan) ? 24 : 32} dev ${device}`,
    `address ${verb} ${ipv6}/${hasLan(plan) ? 64 : 128} dev ${device}${nodad}`,
    ...plan.uplinks
      .slice(1)
      .flatMap((uplink) => [
        `address ${verb} ${uplink.ipv4}/32 dev lo`,
        `address ${verb} ${uplink.ipv6}/128 dev lo${nodad}`,
      ]),
  ];
}

function containerAddressCommands(plan: NodePlan, at: number, verb: Verb): string[] {
  const { ipv4, ipv6 } = containerAddresses(plan, at);
  return [
    `address ${verb} ${ipv4}/24 dev eth0`,
    `address ${verb} ${ipv6}/64 dev eth0${verb === 'add' ? ' nodad' : ''}`,
  ];
}

function containerRoutes(plan: NodePlan): string[] {
  const { ipv4, ipv6 } = ownAddresses(plan);
  return [`route replace default via ${ipv4}`, `-6 route replace default via ${ipv6}`];
}

function uplinkCommands(plan: NodePlan, verb: Verb, deviceOfLink: (link: string) => string): string[] {
  return plan.uplinks.flatMap((uplink, at) => {
    const table = FIRST_UPLINK_TABLE + at;
    const device = deviceOfLink(uplink.link);
    return [
      `rule ${verb} from ${uplink.ipv4} lookup ${table}`,
      `-6 rule ${verb} from ${uplink.ipv6} lookup ${table}`,
      `route ${verb} default dev ${device} table ${table}`,
      `-6 route ${verb} default dev ${device} table ${table}`,
      ...(hasLan(plan)
        ? [`route ${verb} ${plan.lan4} dev lan table ${table}`, `-6 route ${verb} ${plan.lan6} dev lan table ${table}`]
        : []),
    ];
  });
}

// ----------------------------------------------------------------------------------------------------------------- NAT

function makeNat(namespaces: Namespaces, plan: NodePlan, options: RouterOptions): void {
  const router = namespaces.fullName(plan.node.name);
  const nat = addForwarding(namespaces, wanNamespace(plan), options);
  ip([`link add name ${INSIDE_DEVICE} type veth peer name ${NAT_DEVICE} netns ${router}`], nat);
  ip(
    [
      `address add ${NAT_LINK6}/64 dev ${INSIDE_DEVICE} nodad`,
      `link set ${INSIDE_DEVICE} up`,
      ...natCommands(plan, 'add').outside,
    ],
    nat,
  );
  ip(
    [
      `address add ${ROUTER_LINK6}/64 dev ${NAT_DEVICE} nodad`,
      `link set ${NAT_DEVICE} up`,
      ...natCommands(plan, 'add').router,
    ],
    router,
  );
  translate(namespaces, plan);
}

/** Addresses and routes between a router and its NAT; none where there is no NAT. */
function natCommands(plan: NodePlan, verb: Verb): { outside: string[]; router: string[] } {
  const { inside } = plan;
  if (inside === undefined) return { outside: [], router: [] };
  const nodad = verb === 'add' ? ' nodad' : '';
  // The NAT answers in IPv6 as well when a hop limit ends in it; the last address of the site's prefix is its own.
  const own6 = plan.ipv6.replace(/::1$/, '::ffff');
  const defaults =
    verb === 'delete'
      ? []
      : [
          `route replace default via ${inside.nat4} src ${inside.ipv4}`,
          `-6 route replace default via ${NAT_LINK6} dev ${NAT_DEVICE} src ${plan.ipv6}`,
        ];
  return {
    outside: [
      `address ${verb} ${plan.ipv4}/32 dev lo`,
      `address ${verb} ${own6}/128 dev lo${nodad}`,
      `address ${verb} ${inside.nat4}/30 dev ${INSIDE_DEVICE}`,
      ...(verb === 'add' ? [`route add ${inside.lan4} via ${inside.router4}`] : []),
      `-6 route ${verb} ${plan.lan6} via ${ROUTER_LINK6} dev ${INSIDE_DEVICE}`,
    ],
    router: [`address ${verb} ${inside.router4}/30 dev ${NAT_DEVICE}`, ...defaults],
  };
}

/** What leaves takes the public address; nothing reaches the inside that is not an answer. */
function translate(namespaces: Namespaces, plan: NodePlan): void {
  if (plan.inside === undefined) return;
  nft(
    `table ip nat
delete table ip nat
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat
    iifname "${INSIDE_DEVICE}" oifname "wan*" snat to ${plan.ipv4}
  }
  chain forward {
    type filter hook forward priority filter
    iifname "wan*" ct state != { established, related } drop
  }
}`,
    namespaces.fullName(wanNamespace(plan)),
  );
}

// ------------------------------------------------------------------------------------------------------ packet filters

/** What a router says of itself. Packets too big are the emulator's to report. */
const ANSWERS4 = '{ echo-reply, time-exceeded, destination-unreachable }';

function filterPackets(namespace: string, { node }: NodePlan): void {
  const { firewall, policeIcmp, hidden } = node;
  const output =
    hidden === true
      ? [`icmp type ${ANSWERS4} drop`, `icmpv6 type ${ANSWERS4} drop`]
      : policeIcmp === undefined
        ? []
        : [`icmp type ${ANSWERS4} limit name "answers" drop`, `icmpv6 type ${ANSWERS4} limit name "answers" drop`];
  // Unknown packets from the WAN; neighbours are not asked for on these devices.
  const unasked = 'iifname "wan*" ct state != { established, related } drop';
  const incoming = firewall === undefined ? [] : [unasked];
  if (output.length + incoming.length === 0) return;
  const limit =
    policeIcmp === undefined ? '' : `limit answers { rate over ${policeIcmp}/second burst ${policeIcmp} packets; }`;
  nft(
    `table inet lab {
  ${limit}
  chain output {
    type filter hook output priority filter
    ${output.join('\n    ')}
  }
  chain input {
    type filter hook input priority filter
    ${incoming.join('\n    ')}
  }
  chain forward {
    type filter hook forward priority filter
    ${incoming.join('\n    ')}
  }
}`,
    namespace,
  );
}
