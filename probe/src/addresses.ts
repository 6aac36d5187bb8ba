/**
 * Where this probe can be reached: parsed from WAN_ADDRESSES, or detected as the source addresses of the route to the
 * broker. Pure; the route lookup and the list of interfaces are given.
 */
import { isIP, isIPv6 } from 'node:net';
import { FAMILIES, isToken, parseBitRate, type Family, type HelloEndpoint, type Protocol } from '@wanscope/shared';

/** Where packets of an address are routed, apart from the process's own routing. At least one of them is set. */
export interface RoutingDomain {
  /** A network namespace: its name, or the path of its file. */
  readonly netns?: string;
  /** A VRF device. */
  readonly vrf?: string;
  /** SO_MARK, for rules of the system's routing. */
  readonly mark?: number;
}

export interface LocalAddress {
  readonly network: string;
  /** '' when none is declared. */
  readonly uplink: string;
  readonly family: Family;
  readonly bound: string;
  readonly advertised: string;
  /** Port of the datagram reflector as peers reach it, where a NAT forwards another. */
  readonly advertisedUdpPort: number | undefined;
  readonly interface: string | undefined;
  /** Undefined: where the process is. */
  readonly domain?: RoutingDomain;
}

export type ReflectProtocol = Exclude<Protocol, 'icmp' | 'dns'>;
/** Ports to reflect on; 0 lets the system choose. */
export type ReflectPorts = Readonly<Partial<Record<ReflectProtocol, number>>>;

/** A parsed value, or one line for each thing wrong with it. */
export type Parsed<T> = { readonly value: T } | { readonly problems: readonly string[] };

const MAX_ADDRESSES = 64;
export const ADDRESS_FORM =
  'network[/uplink]=address[@advertised[:port]][%interface][%netns:name|path][%vrf:device][%mark:number]';
const INTERFACE_NAME = /^[^\s/%:]{1,15}$/;
const MAX_MARK = 0xffff_ffff;

/** Parses WAN_ADDRESSES. IPv6 addresses are put in brackets where a port follows. */
export function parseAddresses(text: string): Parsed<LocalAddress[]> {
  const problems: string[] = [];
  const addresses: LocalAddress[] = [];
  for (const entry of text.split(',').map((part) => part.trim())) {
    const parsed = parseAddress(entry);
    if (typeof parsed === 'string') problems.push(`"${entry}": ${parsed}; allowed: ${ADDRESS_FORM}`);
    else if (addresses.some((other) => isSamePlace(other, parsed))) {
      problems.push(`"${entry}": names the address ${parsed.bound} twice in one network`);
    } else addresses.push(parsed);
  }
  if (addresses.length > MAX_ADDRESSES) problems.push(`${addresses.length} addresses; at most ${MAX_ADDRESSES}`);
  return problems.length > 0 ? { problems } : { value: addresses };
}

function isSamePlace(a: LocalAddress, b: LocalAddress): boolean {
  const domainOf = ({ domain }: LocalAddress): string => JSON.stringify([domain?.netns, domain?.vrf, domain?.mark]);
  return a.bound === b.bound && a.network === b.network && domainOf(a) === domainOf(b);
}

function parseAddress(entry: string): LocalAddress | string {
  const match = /^([^=/]*)(?:\/([^=]*))?=([^@%]*)(?:@([^%]*))?(?:%(.*))?$/.exec(entry);
  if (match === null) return 'not understood';
  const [, network = '', uplink, boundText = '', advertisedText, placeText] = match;
  if (!isToken(network)) return `network "${network}" must match [a-z0-9_-]{1,63}`;
  if (uplink !== undefined && !isToken(uplink)) return `uplink "${uplink}" must match [a-z0-9_-]{1,63}`;
  const bound = boundText.replace(/^\[(.*)\]$/, '$1');
  const version = isIP(bound);
  if (version === 0) return `"${boundText}" is not an IP address`;
  const place = placeText === undefined ? { interface: undefined } : parsePlace(placeText.split('%'));
  if (typeof place === 'string') return place;
  let advertised = bound;
  let advertisedUdpPort: number | undefined;
  if (advertisedText !== undefined) {
    const split = splitPort(advertisedText);
    if (split === undefined) return `"${advertisedText}" is not an IP address with an optional port`;
    if (isIP(split.address) !== version) return `${split.address} is not of the family of ${bound}`;
    advertised = split.address;
    advertisedUdpPort = split.port;
  }
  return {
    network,
    uplink: uplink ?? '',
    family: version === 4 ? 'ipv4' : 'ipv6',
    bound,
    advertised,
    advertisedUdpPort,
    ...place,
  };
}

/** What follows each percent sign. */
function parsePlace(parts: readonly string[]): Pick<LocalAddress, 'interface' | 'domain'> | string {
  let interfaceName: string | undefined;
  const domain: { netns?: string; vrf?: string; mark?: number } = {};
  for (const part of parts) {
    const [, kind, value = ''] = /^(netns|vrf|mark):(.*)$/.exec(part) ?? [];
    switch (kind) {
      case 'netns':
        if (domain.netns !== undefined) return 'names two namespaces';
        if (!/^(?:[^\s/%]{1,255}|\/[^\s%]{1,255})$/.test(value) || value === '.' || value === '..') {
          return `"${value}" is not the name or the path of a network namespace`;
        }
        domain.netns = value;
        break;
      case 'vrf':
        if (domain.vrf !== undefined) return 'names two VRFs';
        if (!INTERFACE_NAME.test(value)) return `"${value}" is not the name of a VRF device`;
        domain.vrf = value;
        break;
      case 'mark': {
        if (domain.mark !== undefined) return 'names two marks';
        const mark = /^(?:0x[0-9a-fA-F]{1,8}|\d{1,10})$/.test(value) ? Number(value) : 0;
        if (mark === 0 || mark > MAX_MARK) return `"${value}" is not a mark from 1 to 0xffffffff`;
        domain.mark = mark;
        break;
      }
      case undefined:
      default:
        if (!INTERFACE_NAME.test(part)) return `"${part}" is not an interface name`;
        if (interfaceName !== undefined) return 'names two interfaces';
        interfaceName = part;
    }
  }
  if (interfaceName !== undefined && domain.vrf !== undefined) return 'names an interface and a VRF';
  return { interface: interfaceName, ...(Object.keys(domain).length === 0 ? {} : { domain }) };
}

function splitPort(text: string): { address: string; port: number | undefined } | undefined {
  if (isIP(text) !== 0) return { address: text, port: undefined };
  const match = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?$/.exec(text);
  const address = match?.[1] ?? match?.[2] ?? '';
  const port = match?.[3] === undefined ? undefined : Number(match[3]);
  if (isIP(address) === 0 || (port !== undefined && (port < 1 || port > 65_535))) return undefined;
  return { address, port };
}

/** What each uplink carries, by name. */
export type UplinkRates = ReadonlyMap<string, NonNullable<HelloEndpoint['rate']>>;

/** Parses WAN_UPLINK_RATES, "isp-a=50Mbit/s,lte=16Mbit/s/2Mbit/s": one rate for both directions, or down and up. */
export function parseUplinkRates(text: string): Parsed<UplinkRates> {
  const problems: string[] = [];
  const rates = new Map<string, NonNullable<HelloEndpoint['rate']>>();
  for (const entry of text === '' ? [] : text.split(',').map((part) => part.trim())) {
    const [, uplink = '', downText, upText] = /^([^=]*)=([^/]*\/s)(?:\/([^/]*\/s))?$/.exec(entry) ?? [];
    const down = parseBitRate(downText ?? '');
    const up = upText === undefined ? down : parseBitRate(upText);
    if (!isToken(uplink) || down === undefined || up === undefined) {
      problems.push(`"${entry}": not understood; allowed: uplink=rate or uplink=down/up, such as lte=16Mbit/s/2Mbit/s`);
    } else if (rates.has(uplink)) problems.push(`"${entry}": ${uplink} is named twice`);
    else rates.set(uplink, { downBitsPerSecond: down, upBitsPerSecond: up });
  }
  return problems.length > 0 ? { problems } : { value: rates };
}

const REFLECT_PROTOCOLS: readonly ReflectProtocol[] = ['udp', 'tcp', 'http'];

/** Parses WAN_REFLECT, "udp:862,tcp:8620,http:8621"; '' reflects nothing. */
export function parseReflect(text: string): Parsed<ReflectPorts> {
  const problems: string[] = [];
  const ports: Partial<Record<ReflectProtocol, number>> = {};
  for (const entry of text === '' ? [] : text.split(',').map((part) => part.trim())) {
    const match = /^([a-z]+):(\d{1,5})$/.exec(entry);
    const protocol = REFLECT_PROTOCOLS.find((name) => name === match?.[1]);
    const port = Number(match?.[2]);
    if (match === null || protocol === undefined || port > 65_535) {
      problems.push(`"${entry}": not understood; allowed: udp:PORT, tcp:PORT, http:PORT`);
    } else if (ports[protocol] !== undefined) {
      problems.push(`"${entry}": ${protocol} is named twice`);
    } else ports[protocol] = port;
  }
  const { tcp, http } = ports;
  if (tcp !== undefined && tcp === http && tcp !== 0) problems.push(`tcp and http cannot both be on port ${tcp}`);
  return problems.length > 0 ? { problems } : { value: ports };
}

/** Bridges that Docker makes, by its own names: their addresses mean nothing outside this machine. `br-lan` is a router's. */
const CONTAINER_BRIDGE = /^(?:docker\d+|docker_gwbridge|br-[0-9a-f]{12})$/;

function isLinkLocal(address: string): boolean {
  return /^(127\.|169\.254\.|::1$|fe[89ab][0-9a-f]:)/i.test(address);
}

export interface InterfaceAddress {
  readonly interface: string;
  readonly address: string;
}

/**
 * The addresses to announce when none are configured: for each family the source address of the route to the broker,
 * unless it is of this machine or its link only.
 *
 * @param routeSource source address that the system would use towards the broker; undefined where there is no route.
 * It rejects where that cannot be told now, and so does this where no other family has one.
 * @param leftOut hears of each that is not announced.
 */
export async function detectAddresses(
  routeSource: (family: Family) => Promise<string | undefined>,
  interfaces: readonly InterfaceAddress[],
  leftOut: (address: string, reason: string) => void = () => undefined,
): Promise<LocalAddress[]> {
  const found: LocalAddress[] = [];
  let failure: Error | undefined;
  for (const family of FAMILIES) {
    let address: string | undefined;
    try {
      address = await routeSource(family);
    } catch (error) {
      failure = error as Error;
    }
    if (address === undefined || isIPv6(address) !== (family === 'ipv6')) continue;
    if (isLinkLocal(address)) {
      leftOut(address, 'the route to the broker has a source of this machine or its link only');
      continue;
    }
    const on = interfaces.find((candidate) => candidate.address === address);
    if (on !== undefined && CONTAINER_BRIDGE.test(on.interface)) {
      leftOut(address, `${on.interface} is a bridge of Docker`);
      continue;
    }
    found.push({
      network: 'default',
      uplink: '',
      family,
      bound: address,
      advertised: address,
      advertisedUdpPort: undefined,
      interface: undefined,
    });
  }
  if (found.length === 0 && failure !== undefined) throw failure;
  return found;
}

/** Ports that are listening on one local address. */
export type BoundPorts = (address: LocalAddress) => ReflectPorts;

/**
 * Addresses as the endpoints of a hello, one for each network and uplink. A reflector is announced where it listens on
 * every address of the endpoint, on one port.
 */
export function endpointsOf(
  addresses: readonly LocalAddress[],
  boundPorts: BoundPorts,
  rates: UplinkRates = new Map(),
): HelloEndpoint[] {
  const groups = new Map<string, LocalAddress[]>();
  for (const address of addresses) {
    const key = `${address.network}/${address.uplink}`;
    groups.set(key, [...(groups.get(key) ?? []), address]);
  }
  return [...groups.values()].map((group) => {
    const reflect: Partial<Record<ReflectProtocol, number>> = {};
    for (const protocol of REFLECT_PROTOCOLS) {
      const ports = new Set(
        group.map((address) => {
          const port = boundPorts(address)[protocol];
          return port !== undefined && protocol === 'udp' ? (address.advertisedUdpPort ?? port) : port;
        }),
      );
      const [port] = ports;
      if (ports.size === 1 && port !== undefined) reflect[protocol] = port;
    }
    const rate = rates.get(group[0]!.uplink);
    return {
      network: group[0]!.network,
      uplink: group[0]!.uplink,
      addresses: group.slice(0, 8).map((address) => ({
        family: address.family,
        bound: address.bound,
        advertised: address.advertised,
        ...(address.interface === undefined ? {} : { interface: address.interface }),
      })),
      reflect,
      ...(rate === undefined ? {} : { rate }),
    };
  });
}
