import { describe, expect, it } from 'vitest';
import { meanOpinionScore, transmissionRating } from './e-model.ts';

describe('the E-model of G.711', () => {
  // R = 93.2 - Id - Ie,eff by hand: at 150 ms Id = 3.6, at 250 ms 6 + 0.11 * 72.7 = 13.997;
  // Ie,eff = 95 * 1 / (1 + 4.3) = 17.9245 and 95 / 26.1 = 3.6398 at 1 %, 190 / 6.3 = 30.1587 and 190 / 27.1 = 7.0111 at 2 %.
  it.each([
    { ms: 0, loss: 0, concealment: false, rating: 93.2, score: 4.4093 },
    { ms: 150, loss: 0.01, concealment: false, rating: 71.6755, score: 3.6746 },
    { ms: 150, loss: 0.01, concealment: true, rating: 85.9602, score: 4.2279 },
    { ms: 250, loss: 0.02, concealment: false, rating: 49.0443, score: 2.5249 },
    { ms: 250, loss: 0.02, concealment: true, rating: 72.1919, score: 3.698 },
  ])('rates $ms ms and a loss of $loss (concealment: $concealment)', ({ ms, loss, concealment, rating, score }) => {
    const r = transmissionRating({ mouthToEarNs: ms * 1e6, lossRatio: loss, burstRatio: 1, concealment });
    expect(r).toBeCloseTo(rating, 4);
    expect(meanOpinionScore(r)).toBeCloseTo(score, 4);
  });

  it('rates the same loss in bursts lower', () => {
    // 95 * 5 / (5 / 2 + 4.3) = 69.8529 against 95 * 5 / 9.3 = 51.0753
    const rating = (burstRatio: number): number =>
      transmissionRating({ mouthToEarNs: 0, lossRatio: 0.05, burstRatio, concealment: false });
    expect(rating(1)).toBeCloseTo(93.2 - 51.0753, 4);
    expect(rating(2)).toBeCloseTo(93.2 - 69.8529, 4);
  });

  it('never scores outside 1 to 4.5', () => {
    // At 3.2 the cubic gives 1 + 0.112 - 7e-6 * 3.2 * 56.8 * 96.8 = 0.9888.
    expect(meanOpinionScore(3.2)).toBe(1);
    expect(meanOpinionScore(-20)).toBe(1);
    expect(meanOpinionScore(0)).toBe(1);
    expect(meanOpinionScore(100)).toBe(4.5);
    expect(meanOpinionScore(120)).toBe(4.5);
  });
});
