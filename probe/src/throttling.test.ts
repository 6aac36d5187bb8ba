import { expect, it } from 'vitest';
import { readCpuThrottling } from './throttling.ts';

const files =
  (content: Readonly<Record<string, string>>) =>
  (path: string): string => {
    const text = content[path];
    if (text === undefined) throw new Error('ENOENT');
    return text;
  };

it('reads the microseconds of version 2 in the own group', () => {
  const readFile = files({
    '/proc/self/cgroup': '0::/system.slice/probe.service\n',
    '/sys/fs/cgroup/system.slice/probe.service/cpu.stat': 'usage_usec 9\nnr_throttled 2\nthrottled_usec 1500\n',
  });
  expect(readCpuThrottling(readFile)).toBe(1_500_000);
});

it('reads the nanoseconds of version 1', () => {
  const readFile = files({
    '/proc/self/cgroup': '5:memory:/x\n4:cpu,cpuacct:/x\n',
    '/sys/fs/cgroup/cpu/x/cpu.stat': 'nr_periods 5\nnr_throttled 1\nthrottled_time 70000\n',
  });
  expect(readCpuThrottling(readFile)).toBe(70_000);
});

it('finds the own group at the root of what a container sees, and nothing where there is none', () => {
  expect(readCpuThrottling(files({ '/sys/fs/cgroup/cpu.stat': 'throttled_usec 3\n' }))).toBe(3_000);
  expect(readCpuThrottling(files({}))).toBeUndefined();
});
