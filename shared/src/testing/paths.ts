/** A path, for tests and benchmarks that care about some of its parts only. */
import type { PathParts } from '../path.ts';

export function pathOf(changes: Partial<PathParts> = {}): PathParts {
  return {
    network: 'default',
    srcSite: 'hq',
    src: 'a',
    srcUplink: '',
    dstSite: 'branch',
    dst: 'r1',
    dstUplink: '',
    dstNetwork: 'default',
    dstKind: 'probe',
    test: 'icmp',
    protocol: 'icmp',
    class: 'BE',
    family: 'ipv4',
    ...changes,
  };
}
