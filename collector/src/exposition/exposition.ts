/** The whole exposition: every family over one view of the collector. */
import type { PathParts, Protocol } from '@wanscope/shared';
import type { ExpositionConfig, OperatorConfig } from '@wanscope/shared/config';
import type { MeasurementState } from '../state.ts';
import { BACKFILL_FAMILIES } from './backfill-families.ts';
import { fleetFamilies, type MetricView } from './fleet-families.ts';
import { StateRegistry, type FamilyDefinition } from './registry.ts';
import { seriesFamilies, seriesPerPath } from './series-families.ts';

interface BudgetUse {
  /** First slot that is not exposed. */
  readonly endSlot: number;
  /** What is folded. */
  readonly series: number;
  readonly paths: number;
}

/** Which paths the budget lets through: those below `endSlot`; the others are folded into rollups. */
export class PathBudget {
  readonly #state: MeasurementState;
  readonly #config: () => OperatorConfig;
  #measured: { readonly revision: number; readonly exposition: ExpositionConfig; readonly use: BudgetUse } | undefined;

  constructor(state: MeasurementState, config: () => OperatorConfig) {
    this.#state = state;
    this.#config = config;
  }

  /** Measured anew only after a path came or went, or the configuration changed. */
  measure(): BudgetUse {
    const { exposition } = this.#config();
    const { revision } = this.#state.paths;
    if (this.#measured?.revision !== revision || this.#measured.exposition !== exposition) {
      this.#measured = { revision, exposition, use: this.#use(exposition) };
    }
    return this.#measured.use;
  }

  #use({ pathSeriesBudget, pathFamilies, pathHistograms }: ExpositionConfig): BudgetUse {
    const { paths } = this.#state;
    const { tests } = this.#config();
    const cost = new Map<string, number>();
    let left = pathSeriesBudget;
    let endSlot = paths.limit;
    let series = 0;
    let folded = 0;
    for (let slot = 0; slot < paths.limit; slot += 1) {
      if (paths.keyOf(slot) === undefined) continue;
      const protocol = paths.part(slot, 'protocol') as Protocol;
      const test = paths.part(slot, 'test');
      const key = `${protocol} ${test}`;
      let perPath = cost.get(key);
      if (perPath === undefined) {
        perPath = seriesPerPath(protocol, pathFamilies === 'full', pathHistograms, tests.get(test)?.flows);
        cost.set(key, perPath);
      }
      if (folded === 0 && left >= perPath) {
        left -= perPath;
        continue;
      }
      if (folded === 0) endSlot = slot;
      folded += 1;
      series += perPath;
    }
    return { endSlot, series, paths: folded };
  }
}

export interface Exposition {
  readonly registry: StateRegistry;
  /** Every family there is, whether or not it has samples now. */
  readonly families: readonly FamilyDefinition[];
  /** True for a path that the budget keeps out. */
  readonly isFolded: (parts: PathParts) => boolean;
}

export function createExposition(view: Omit<MetricView, 'folded'>): Exposition {
  const { state, config } = view;
  const budget = new PathBudget(state, config);
  const families = [
    ...seriesFamilies('path', {
      table: state.paths,
      endSlot: () => budget.measure().endSlot,
      full: () => config().exposition.pathFamilies === 'full',
      histograms: () => config().exposition.pathHistograms,
      flows: (slot) => state.flows.of(slot),
    }),
    ...seriesFamilies('site', {
      table: state.sites,
      endSlot: () => state.sites.limit,
      full: () => true,
      histograms: () => true,
    }),
    ...fleetFamilies({ ...view, folded: () => budget.measure() }),
  ];
  const isFolded = (parts: PathParts): boolean => {
    const { endSlot, paths } = budget.measure();
    return paths > 0 && (state.findPath(parts) ?? -1) >= endSlot;
  };
  return { registry: new StateRegistry(families), families, isFolded };
}

/** Every family there is, those of remote write too, without a collector: definitions do not depend on the state they will be read from. */
export function familyDefinitions(): readonly FamilyDefinition[] {
  const unread: Omit<MetricView, 'folded'> = new Proxy({} as never, {
    get: () => unread,
    ownKeys: () => ['ingest'],
    getOwnPropertyDescriptor: () => ({ value: unread, enumerable: true, configurable: true }),
  });
  return [...createExposition(unread).families, ...BACKFILL_FAMILIES];
}
