/**
 * Voice quality by the E-model (ITU-T G.107) for G.711 at its default values: a transmission rating R from one-way
 * delay and loss, and the mean opinion score that goes with it.
 */
import { NS_PER_MS } from '../units.ts';

export interface VoiceConditions {
  /** One way, mouth to ear: network, jitter buffer and coding together. */
  readonly mouthToEarNs: number;
  /** 0 to 1. */
  readonly lossRatio: number;
  /** Mean length of the observed losses over that of random loss at the same ratio; 1 is random. At least 1. */
  readonly burstRatio: number;
  /** G.711 appendix I fills gaps from what came before. */
  readonly concealment: boolean;
}

/** R of a perfect G.711 call. */
const R_BEST = 93.2;
/** Delay from which conversation suffers. */
const NOTICEABLE_MS = 177.3;
/** Robustness of G.711 against loss (ITU-T G.113 appendix I), in percent. */
const LOSS_ROBUSTNESS = { plain: 4.3, concealing: 25.1 } as const;

/** R, at most 93.2; below 0 for what no conversation survives. */
export function transmissionRating(conditions: VoiceConditions): number {
  const delayMs = conditions.mouthToEarNs / NS_PER_MS;
  const delayImpairment = 0.024 * delayMs + 0.11 * Math.max(0, delayMs - NOTICEABLE_MS);
  const robustness = conditions.concealment ? LOSS_ROBUSTNESS.concealing : LOSS_ROBUSTNESS.plain;
  const lossPercent = 100 * conditions.lossRatio;
  const lossImpairment = (95 * lossPercent) / (lossPercent / conditions.burstRatio + robustness);
  return R_BEST - delayImpairment - lossImpairment;
}

/** Mean opinion score, 1 to 4.5 (ITU-T G.107 annex B), where its cubic would fall under 1 too. */
export function meanOpinionScore(rating: number): number {
  if (rating <= 0) return 1;
  if (rating >= 100) return 4.5;
  const score = 1 + 0.035 * rating + 7e-6 * rating * (rating - 60) * (100 - rating);
  return Math.min(4.5, Math.max(1, score));
}
