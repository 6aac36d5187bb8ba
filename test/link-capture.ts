/** What the kernel sees pass the links of a node, with its own stamps: taken by tcpdump inside the node. */
import { join } from 'node:path';
import { readPcap, type LabNode, type Mesh, type SeenPacket, type Service } from '@wanscope/lab';
import { PORTS } from './wire-truth.ts';

const PROBES_ONLY = ['icmp', 'icmp6', ...Object.values(PORTS).map((port) => `port ${port}`)].join(' or ');
/** Link header, IPv6, TCP with options, and of the payloads what tells probes apart. */
const SNAP_BYTES = 128;
const BUFFER_KIB = 16 * 1_024;

/**
 * What leaves is stamped as the kernel hands it to the device, what comes as the device hands it to the kernel: wire time
 * as a host can know it. All devices at once, because each probe's packets pass only one of its node's.
 */
export class LinkCapture {
  readonly #service: Service;
  readonly #file: string;

  private constructor(service: Service, file: string) {
    this.#service = service;
    this.#file = file;
  }

  /** Captures from the moment it resolves until `stop`, or the mesh's end. */
  static async start(mesh: Mesh, node: LabNode, directory: string): Promise<LinkCapture> {
    const name = `tcpdump-${node.name.replace('/', '-')}`;
    const file = join(directory, `${name}.pcap`);
    const service = mesh.addServiceAt(node, name, [
      'tcpdump',
      ...['-i', 'any', '-n', '-w', file, '-Z', 'root', '--time-stamp-precision=nano'],
      ...['-s', String(SNAP_BYTES), '-B', String(BUFFER_KIB)],
      PROBES_ONLY,
    ]);
    service.start();
    await mesh.until(`${name} to listen`, () => {
      if (!service.running) throw new Error(`ended with ${service.ended}: ${service.logTail(5)}`);
      return Promise.resolve(service.logTail(5).includes('listening on'));
    });
    return new LinkCapture(service, file);
  }

  /**
   * Packets of the last second may be missing.
   *
   * @throws Error when the kernel dropped any.
   */
  async stop(): Promise<SeenPacket[]> {
    await this.#service.stop();
    const log = this.#service.logTail(5);
    if (!/^0 packets dropped by kernel$/m.test(log)) throw new Error(`${this.#service.name}: ${log}`);
    return readPcap(this.#file);
  }
}
