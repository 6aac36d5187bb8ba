import { describe, expect, it } from 'vitest';
import type { PlannedSession } from '@wanscope/shared';
import { FakeClock } from '@wanscope/shared/testing';
import { parseAddresses } from '../addresses.ts';
import { Domains, namespacePath } from './domains.ts';
import type { DomainHandle, NativeModule } from './native.ts';

const silentLog = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const EPERM = 1;
const ENOENT = 2;
const EINVAL = 22;

/** Remembers what was opened; namespaces of the name `error` are refused with it. */
class FakeModule {
  readonly opened: unknown[] = [];
  current = true;
  readonly module: Pick<NativeModule, 'openDomain' | 'domainIsCurrent' | 'settleDomain' | 'addressesIn'> = {
    openDomain: (options) => {
      const error = { '/run/netns/forbidden': EPERM, '/run/netns/missing': ENOENT, '/bad': EINVAL }[options.netns];
      if (error !== undefined) return error;
      this.opened.push(options);
      return { number: this.opened.length } as unknown as DomainHandle;
    },
    domainIsCurrent: () => this.current,
    settleDomain: () => undefined,
    addressesIn: (domain) => [`10.0.0.${(domain as unknown as { number: number }).number}`],
  };
}

function domainsOf(text: string, fake: FakeModule | undefined = new FakeModule(), clock = new FakeClock()): Domains {
  const parsed = parseAddresses(text);
  if (!('value' in parsed)) throw new Error(parsed.problems.join());
  return new Domains(parsed.value, fake.module, clock, silentLog);
}

const session = (network: string, srcUplink: string, address: string): PlannedSession =>
  ({ path: { network, srcUplink }, source: { address, interface: undefined } }) as unknown as PlannedSession;

describe('routing domains', () => {
  it('tell one address in two networks apart', () => {
    const domains = domainsOf('a=10.0.0.1%netns:x,b=10.0.0.1%netns:y,c=10.0.0.1');
    expect(domains.of(session('a', '', '10.0.0.1'))).toEqual({ number: 1 });
    expect(domains.of(session('b', '', '10.0.0.1'))).toEqual({ number: 2 });
    expect(domains.of(session('c', '', '10.0.0.1'))).toBeUndefined();
    expect(['a', 'b', 'c'].map((network) => domains.namespaceOf(network, '', '10.0.0.1'))).toEqual([
      'x',
      'y',
      undefined,
    ]);
  });

  it('are entered once each, whatever the number of their addresses', () => {
    const fake = new FakeModule();
    const domains = domainsOf('a=10.0.0.1%netns:x,a=[fd00::1]%netns:x,b/m=10.0.0.1%mark:16%vrf:red', fake);
    expect(fake.opened).toEqual([
      { netns: '/run/netns/x', vrf: '', mark: 0 },
      { netns: '', vrf: 'red', mark: 16 },
    ]);
    expect(domains.handles).toHaveLength(2);
    expect(domains.namespaceOf('b', 'm', '10.0.0.1')).toBeUndefined();
  });

  it('list each namespace that could be entered once, and what is in it', () => {
    const domains = domainsOf(
      'a=10.0.0.9%mark:1,b=10.0.0.1%netns:x,c/m=10.0.0.2%netns:x%mark:1,d=10.0.0.3%netns:missing',
    );
    expect(domains.namespaces).toEqual(['x']);
    expect(domains.namespaceOf('d', '', '10.0.0.3')).toBe('missing');
    // Of the second that was opened: the first is a mark alone.
    expect([domains.addressesIn('x'), domains.addressesIn('missing')]).toEqual([['10.0.0.2'], undefined]);
  });

  it('that cannot be entered are refused with their cause, and the others are not', () => {
    const text = 'a=10.0.0.1%netns:forbidden,b=10.0.0.1%netns:missing,c=10.0.0.1%netns:/bad,d=10.0.0.1%netns:good';
    const domains = domainsOf(text);
    expect(domains.refused()).toEqual([
      { network: 'a', uplink: '', cause: 'no_privilege' },
      { network: 'b', uplink: '', cause: 'not_found' },
      { network: 'c', uplink: '', cause: 'failed' },
    ]);
    expect(domains.refusalOf(session('a', '', '10.0.0.1'))).toBe('no_privilege');
    expect(domains.refusalOf(session('d', '', '10.0.0.1'))).toBeUndefined();
    expect(domains.refusalOf(session('e', '', '10.0.0.9'))).toBeUndefined();
  });

  it('all need the native module', () => {
    const parsed = parseAddresses('a=10.0.0.1%mark:1');
    const domains = new Domains('value' in parsed ? parsed.value : [], undefined, new FakeClock(), silentLog);
    expect(domains.refused()).toEqual([{ network: 'a', uplink: '', cause: 'no_native' }]);
  });

  it('whose name stands for another namespace are refused within half a second, until it is theirs again', () => {
    const fake = new FakeModule();
    const clock = new FakeClock();
    const domains = domainsOf('a=10.0.0.1%netns:x', fake, clock);
    expect(domains.refused()).toEqual([]);
    fake.current = false;
    clock.advance(500);
    expect(domains.refusalOf(session('a', '', '10.0.0.1'))).toBe('replaced');
    fake.current = true;
    clock.advance(500);
    expect(domains.refused()).toEqual([]);
  });
});

describe('the path of a namespace', () => {
  it('is where ip netns puts its names, or what was given', () => {
    expect(namespacePath('blue')).toBe('/run/netns/blue');
    expect(namespacePath('/proc/1/ns/net')).toBe('/proc/1/ns/net');
  });
});
