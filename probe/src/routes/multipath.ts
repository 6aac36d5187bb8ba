/**
 * The multipath detection algorithm (Augustin, Friedman, Teixeira 2007; Veitch et al. 2009) as a pure state machine: which
 * routers do other flows between the same ends pass?
 *
 * Distance by distance, each router found so far is asked through with different flows until another next router of it
 * is ruled out at 95 %. Flows are numbers from 0; what makes them differ is the caller's business.
 */
import { MAX_HOPS } from './trace.ts';

const MAX_FLOWS = 128;
const MAX_PROBES = 512;
const WINDOW = 8;
/** Distances without any answer after which nothing more is expected. */
const GIVE_UP_AFTER = 3;
const ALPHA = 0.05;
/** Stands for all that is silent at a distance. */
const SILENT = '*';

/** Probes that rule out another next router with an error of 5 % where `found` are known: 6, 11, 16, 21, 27, 33 … */
export function probesToRuleOut(found: number): number {
  const k = Math.max(1, found);
  return Math.ceil(Math.log(ALPHA / (k + 1)) / Math.log(k / (k + 1)));
}

export interface FlowProbe {
  readonly flow: number;
  readonly ttl: number;
}

export interface MultipathLimits {
  readonly flows: number;
  readonly probes: number;
}

export class MultipathSearch {
  readonly #limits: MultipathLimits;
  /** Where each flow was seen, by distance; the first entry is the start, where all are. */
  readonly #seen: Map<number, string>[] = [new Map<number, string>()];
  readonly #ends = new Set<string>();
  readonly #pending = new Set<string>();
  /** The distance at which next routers are looked for. */
  #ttl = 1;
  #flows = 0;
  #probes = 0;
  #silentInARow = 0;
  #isOver = false;
  #isComplete = true;

  constructor(limits: MultipathLimits = { flows: MAX_FLOWS, probes: MAX_PROBES }) {
    this.#limits = limits;
  }

  /** True when nothing more will be sent and nothing is out. */
  get isOver(): boolean {
    return this.#isOver && this.#pending.size === 0;
  }

  /** False when a limit ended the search. */
  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** The next probe, or undefined: nothing until something is heard. */
  next(): FlowProbe | undefined {
    while (!this.#isOver) {
      if (this.#pending.size >= WINDOW) return undefined;
      const found = this.#wanted();
      if (found !== undefined && found !== 'wait') {
        if (this.#probes >= this.#limits.probes) {
          this.#isOver = true;
          this.#isComplete = false;
          return undefined;
        }
        this.#probes += 1;
        this.#pending.add(`${found.flow} ${found.ttl}`);
        return found;
      }
      if (found === 'wait' || this.#pending.size > 0) return undefined;
      this.#advance();
    }
    return undefined;
  }

  /** @param address undefined: no answer. @param isEnd the destination answered, or somebody says it is unreachable. */
  heard({ flow, ttl }: FlowProbe, address: string | undefined, isEnd: boolean): void {
    if (!this.#pending.delete(`${flow} ${ttl}`)) return;
    this.#at(ttl).set(flow, address ?? SILENT);
    if (isEnd && address !== undefined) this.#ends.add(`${ttl} ${address}`);
  }

  /** Addresses by distance, 1 first; none where it is silent. Sorted. */
  hops(): string[][] {
    return this.#seen.slice(1).map((flows) => [...new Set(flows.values())].filter((node) => node !== SILENT).sort());
  }

  #at(ttl: number): Map<number, string> {
    let flows = this.#seen[ttl];
    while (flows === undefined) {
      this.#seen.push(new Map<number, string>());
      flows = this.#seen[ttl];
    }
    return flows;
  }

  /** Flows that pass each router one step before the current distance, without those that have ended. */
  #parents(): Map<string, number[]> {
    const parents = new Map<string, number[]>();
    if (this.#ttl === 1) {
      parents.set(
        '',
        Array.from({ length: this.#flows }, (_, flow) => flow),
      );
      return parents;
    }
    const before = this.#at(this.#ttl - 1);
    const isSilent = [...before.values()].every((node) => node === SILENT);
    for (const [flow, node] of before) {
      // A router that keeps silent now and then is no router of its own.
      if ((node === SILENT && !isSilent) || this.#ends.has(`${this.#ttl - 1} ${node}`)) continue;
      const flows = parents.get(node);
      if (flows === undefined) parents.set(node, [flow]);
      else flows.push(flow);
    }
    return parents;
  }

  /** A probe that is needed at the current distance; `wait`: what is out decides. */
  #wanted(): FlowProbe | 'wait' | undefined {
    const ttl = this.#ttl;
    const here = this.#at(ttl);
    let waits = false;
    for (const flows of this.#parents().values()) {
      const asked = flows.filter((flow) => here.has(flow) || this.#pending.has(`${flow} ${ttl}`));
      const next = new Set(asked.map((flow) => here.get(flow)).filter((node) => node !== undefined && node !== SILENT));
      const missing = probesToRuleOut(next.size) - asked.length;
      if (missing <= 0) continue;
      const ready = flows.find((flow) => !asked.includes(flow));
      if (ready !== undefined) return { flow: ready, ttl };
      const flow = this.#newFlow();
      if (flow === undefined) continue;
      // Its way up to here is found out first.
      if (ttl === 1) return { flow, ttl };
      const scouts = [...this.#pending].filter((key) => key.endsWith(` ${ttl - 1}`)).length;
      if (scouts < missing) return { flow, ttl: ttl - 1 };
      this.#flows -= 1;
      waits = true;
    }
    return waits ? 'wait' : undefined;
  }

  #newFlow(): number | undefined {
    if (this.#flows >= this.#limits.flows) {
      this.#isComplete = false;
      return undefined;
    }
    this.#flows += 1;
    return this.#flows - 1;
  }

  #advance(): void {
    const nodes = new Set(this.#at(this.#ttl).values());
    const isSilent = [...nodes].every((node) => node === SILENT);
    this.#silentInARow = isSilent ? this.#silentInARow + 1 : 0;
    this.#ttl += 1;
    if (this.#parents().size === 0 || this.#silentInARow >= GIVE_UP_AFTER || this.#ttl > MAX_HOPS) this.#isOver = true;
  }
}
