/**
 * What a mesh runs on: nodes with addresses, one of them the centre. The switched network joins every node to one
 * switch, without delay; the lab's own network is an emulated WAN (lab.ts).
 *
 * Nothing of it touches the machine's own network.
 */
import type { Identity } from '@wanscope/shared';
import { ip, Namespaces } from './namespaces.ts';

/** RFC 2544 benchmarking range and a unique local prefix: they collide with no real branch. */
const IPV4_PREFIX = '198.18';
const IPV6_PREFIX = 'fdc8:5ca9:e::';

export interface LabNode {
  readonly name: string;
  readonly ipv4: string;
  readonly ipv6: string;
  /** WAN_ADDRESSES of a probe there. */
  readonly wanAddresses: string;
  /** Argument vector that runs a command inside the node. */
  readonly enter: readonly string[];
  /** Where reports reach it beside the WAN, if they do not travel in band. */
  readonly managementIpv4?: string;
}

/** Nodes for a broker, a collector and probes. */
export interface BranchNetwork {
  /** Where broker and collector run. */
  readonly centre: LabNode;
  nodeOf(identity: Identity): LabNode;
  remove(): Promise<void>;
}

/** One switched network; every node reaches every other over IPv4 and IPv6. */
export class SwitchedNetwork implements BranchNetwork {
  readonly centre: LabNode;
  readonly #namespaces = new Namespaces();
  readonly #nodes = new Map<string, LabNode>();
  readonly #switch: string;

  constructor(identities: readonly Identity[]) {
    try {
      this.#switch = this.#namespaces.add('wan');
      ip(['link add name lan type bridge forward_delay 0', 'link set lan up'], this.#switch);
      this.centre = this.addNode('centre');
      for (const { site, probe } of identities) this.addNode(`${site}-${probe}`);
    } catch (error) {
      this.#namespaces.remove();
      throw error;
    }
  }

  nodeOf({ site, probe }: Identity): LabNode {
    const node = this.#nodes.get(`${site}-${probe}`);
    if (node === undefined) throw new Error(`${site}/${probe} has no node`);
    return node;
  }

  namespaceOf({ name }: LabNode): string {
    return this.#namespaces.fullName(name);
  }

  addNode(name: string): LabNode {
    const namespace = this.#namespaces.add(name);
    const number = this.#nodes.size + 1;
    const ipv4 = `${IPV4_PREFIX}.${number >> 8}.${number & 0xff}`;
    const ipv6 = `${IPV6_PREFIX}${number.toString(16)}`;
    const port = `port${number}`;
    ip(
      [
        `link add name ${port} type veth peer name wan0 netns ${namespace}`,
        `link set ${port} master lan`,
        `link set ${port} up`,
      ],
      this.#switch,
    );
    ip([`address add ${ipv4}/16 dev wan0`, `address add ${ipv6}/64 dev wan0 nodad`, 'link set wan0 up'], namespace);
    const enter = this.#namespaces.enter(name);
    const node = { name, ipv4, ipv6, wanAddresses: `default=${ipv4},default=[${ipv6}]`, enter };
    this.#nodes.set(name, node);
    return node;
  }

  remove(): Promise<void> {
    this.#namespaces.remove();
    return Promise.resolve();
  }
}
