/**
 * Flows of one session: its probes take several source ports in turn, so that each of the equal ways that routers choose by
 * ports is measured. Probe `n` is of flow `n` modulo their number; inside a flow probes are numbered anew, so that to the
 * reflector each flow is a STAMP session of its own.
 */
import type { ReflectedProbes, ReflectedTimes } from '@wanscope/shared';

/** Which flow the session's probe `seq` is of. */
export function flowOf(seq: number, flows: number): number {
  return seq % flows;
}

/** Its number inside that flow. */
export function seqInFlow(seq: number, flows: number): number {
  return Math.floor(seq / flows);
}

/** The low 32 bits of the session's number, of the low 32 bits of the number inside a flow. */
export function wireSeqOf(wireSeqInFlow: number, flow: number, flows: number): number {
  return (wireSeqInFlow * flows + flow) >>> 0;
}

/** What one flow has of an interval. Follows the interval, also through `reset`. */
export class FlowView implements ReflectedProbes, ReflectedTimes {
  readonly #whole: ReflectedProbes & ReflectedTimes;
  readonly #flow: number;
  readonly #flows: number;

  constructor(whole: ReflectedProbes & ReflectedTimes, flow: number, flows: number) {
    this.#whole = whole;
    this.#flow = flow;
    this.#flows = flows;
  }

  get count(): number {
    return Math.max(0, Math.ceil((this.#whole.count - this.#offset) / this.#flows));
  }

  get firstSeq(): number {
    return seqInFlow(this.#whole.firstSeq + this.#offset, this.#flows);
  }

  get clockErrorNs(): number {
    return this.#whole.clockErrorNs;
  }

  reflectorSeqAt(position: number): number | undefined {
    return this.#whole.reflectorSeqAt(this.#at(position));
  }

  heldAt(position: number): number {
    return this.#whole.heldAt(this.#at(position));
  }

  isAnsweredAt(position: number): boolean {
    return this.#whole.isAnsweredAt(this.#at(position));
  }

  isLostAt(position: number): boolean {
    return this.#whole.isLostAt(this.#at(position));
  }

  isUnsentAt(position: number): boolean {
    return this.#whole.isUnsentAt(this.#at(position));
  }

  timeNsAt(position: number): number {
    return this.#whole.timeNsAt(this.#at(position));
  }

  rttNsAt(position: number): number | undefined {
    return this.#whole.rttNsAt(this.#at(position));
  }

  apparentForwardNsAt(position: number): number | undefined {
    return this.#whole.apparentForwardNsAt(this.#at(position));
  }

  /** Position of the flow's first probe in the interval. */
  get #offset(): number {
    return (this.#flow - flowOf(this.#whole.firstSeq, this.#flows) + this.#flows) % this.#flows;
  }

  #at(position: number): number {
    return this.#offset + position * this.#flows;
  }
}
