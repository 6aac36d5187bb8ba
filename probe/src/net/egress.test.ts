import type { PlannedSession } from '@wanscope/shared';
import { FakeClock } from '@wanscope/shared/testing';
import { expect, test } from 'vitest';
import { TargetResolver } from './destination.ts';
import { Egress } from './egress.ts';

const session = (
  address: string | undefined,
  name: string | undefined,
  target: PlannedSession['target'],
): PlannedSession =>
  ({
    path: { dstKind: 'probe', family: 'ipv4', protocol: 'tcp' },
    source: { address, interface: name },
    target,
  }) as unknown as PlannedSession;
const TARGET = { address: '192.0.2.9', host: undefined, url: undefined, port: 80 };
const NAMED = { ...TARGET, address: undefined, host: 'far.example' };

test('what has a way by another interface only is not sent, neither to an address nor to a name', async () => {
  const clock = new FakeClock();
  let name: string | undefined = 'isp-a';
  const resolver = new TargetResolver(() => Promise.resolve(['192.0.2.9']), new Egress(() => name, clock));
  const here = session('198.51.100.1', 'isp-b', TARGET);
  expect(resolver.literal(here)).toEqual({ refused: 'misrouted' });
  expect(await resolver.resolve(session('198.51.100.1', 'isp-b', NAMED))).toEqual({ refused: 'misrouted' });
  expect(resolver.literal(session('198.51.100.1', 'isp-a', TARGET))).toEqual({ address: '192.0.2.9' });
  // Who names no interface may leave by any; where there is no route, the system says so itself.
  expect(resolver.literal(session('198.51.100.1', undefined, TARGET))).toEqual({ address: '192.0.2.9' });
  name = undefined;
  clock.advance(5_000);
  expect(resolver.literal(here)).toEqual({ address: '192.0.2.9' });
});

test('the system is asked again after five seconds, or when routes are known to have changed', () => {
  const clock = new FakeClock();
  let asked = 0;
  const egress = new Egress(() => {
    asked += 1;
    return 'isp-b';
  }, clock);
  const planned = session('198.51.100.1', 'isp-b', TARGET);
  const ask = (): boolean => egress.isMisrouted(planned, '192.0.2.9');
  ask();
  clock.advance(4_999);
  ask();
  expect(asked).toBe(1);
  clock.advance(1);
  ask();
  expect(asked).toBe(2);
  egress.forget();
  expect(ask()).toBe(false);
  expect(asked).toBe(3);
});
