/** A session of a plan, for tests that care about some of its parts only. */
import type { Family, PathParts, Protocol } from '../path.ts';
import type { PlannedSession, PlanTest } from '../plan.ts';
import { NS_PER_S } from '../units.ts';
import { pathOf } from './paths.ts';

export interface PlannedChanges {
  readonly index?: number;
  readonly protocol?: Protocol;
  readonly family?: Family;
  readonly path?: Partial<PathParts>;
  readonly test?: Partial<PlanTest>;
  readonly source?: Partial<PlannedSession['source']>;
  readonly target?: Partial<PlannedSession['target']>;
}

/** A datagram of 100 octets each second, with a timeout of a second, towards nowhere. */
export function plannedOf(changes: PlannedChanges = {}): PlannedSession {
  const { index = 0, protocol = 'udp', family = 'ipv4' } = changes;
  return {
    index,
    path: pathOf({ test: 't', protocol, family, ...changes.path }),
    test: {
      name: 't',
      protocol,
      class: 'BE',
      sizeBytes: 100,
      intervalNs: NS_PER_S,
      timeoutNs: NS_PER_S,
      keepAlive: false,
      ...changes.test,
    },
    source: { address: undefined, interface: undefined, ...changes.source },
    target: { address: undefined, host: undefined, url: undefined, port: undefined, ...changes.target },
  };
}
