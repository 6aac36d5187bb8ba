import { describe, expect, test } from 'vitest';
import { linkWordsSchema } from './topology-file.ts';

describe('what a person writes about a link', () => {
  test('becomes settings in base units', () => {
    expect(
      linkWordsSchema.parse({
        delay: '20ms',
        loss: '5%',
        jitter: { by: '2ms' },
        rate: { bits: '10Mbit/s', queue: '64KB' },
      }),
    ).toEqual({
      delayUs: 20_000,
      loss: 0.05,
      jitter: { kind: 'uniform', us: 2_000, keepOrder: true },
      rate: { bitsPerSecond: 10e6, queueBytes: 64_000 },
    });
  });

  test('is refused with the rule it breaks', () => {
    const problem = linkWordsSchema.safeParse({ loss: '0.05' }).error!.issues[0]!;
    expect(problem.message).toBe('0.05: must be a percentage such as 0.5%');
  });
});
