/** How long the system kept this process from running, because its CPU quota was used up (cgroup versions 1 and 2). */
import { readFileSync } from 'node:fs';

/** @returns nanoseconds since the cgroup was made; undefined where there is no quota to know of. */
export function readCpuThrottling(readFile = (path: string) => readFileSync(path, 'utf8')): number | undefined {
  for (const path of candidates(readFile)) {
    let text: string;
    try {
      text = readFile(path);
    } catch {
      continue;
    }
    const version2 = /^throttled_usec (\d+)$/m.exec(text);
    if (version2 !== null) return Number(version2[1]) * 1_000;
    const version1 = /^throttled_time (\d+)$/m.exec(text);
    if (version1 !== null) return Number(version1[1]);
  }
  return undefined;
}

function candidates(readFile: (path: string) => string): string[] {
  const paths: string[] = [];
  try {
    for (const line of readFile('/proc/self/cgroup').split('\n')) {
      const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
      if (controllers === '') paths.push(`/sys/fs/cgroup${path}/cpu.stat`);
      else if (controllers?.split(',').includes('cpu')) paths.push(`/sys/fs/cgroup/cpu${path}/cpu.stat`);
    }
  } catch {
    // Not Linux, or no /proc.
  }
  // In a container the own group is the root of what can be seen.
  return [...paths, '/sys/fs/cgroup/cpu.stat', '/sys/fs/cgroup/cpu/cpu.stat'];
}
