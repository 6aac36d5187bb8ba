import { expect, it } from 'vitest';
import { dropPrivileges, type PrivilegeCalls } from './privileges.ts';

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

function recording(
  uid: number,
  chown: () => void = () => undefined,
  owner = 0,
): { calls: PrivilegeCalls; made: string[] } {
  const made: string[] = [];
  return {
    made,
    calls: {
      getuid: () => uid,
      makeDirectory: (path) => made.push(`mkdir ${path}`),
      ownerOf: () => owner,
      chown: (path, newOwner, group) => {
        chown();
        made.push(`chown ${path} ${newOwner}:${group}`);
      },
      setgroups: (groups) => made.push(`setgroups [${groups.join()}]`),
      setgid: (gid) => made.push(`setgid ${gid}`),
      setuid: (id) => made.push(`setuid ${id}`),
    },
  };
}

it('gives the state directory away, then groups, group and user, in this order', () => {
  const { calls, made } = recording(0);
  expect(dropPrivileges({ uid: 7, gid: 8 }, '/state', calls, log)).toBe(true);
  expect(made).toEqual(['mkdir /state', 'chown /state 7:8', 'setgroups []', 'setgid 8', 'setuid 7']);
});

it("leaves a state directory that is the user's already", () => {
  const { calls, made } = recording(0, undefined, 7);
  expect(dropPrivileges({ uid: 7, gid: 8 }, '/state', calls, log)).toBe(true);
  expect(made).toEqual(['mkdir /state', 'setgroups []', 'setgid 8', 'setuid 7']);
});

it('has nothing to drop when it is not root', () => {
  const { calls, made } = recording(1_000);
  expect(dropPrivileges({ uid: 7, gid: 8 }, '/state', calls, log)).toBe(false);
  expect(made).toEqual([]);
});

it('drops all the same when the state directory cannot be given away', () => {
  const { calls, made } = recording(0, () => {
    throw new Error('read-only');
  });
  expect(dropPrivileges({ uid: 7, gid: 8 }, '/state', calls, log)).toBe(true);
  expect(made.at(-1)).toBe('setuid 7');
});

it('does not go on as root when the system refuses', () => {
  const { calls } = recording(0);
  const refusing = {
    ...calls,
    setuid: () => {
      throw new Error('EPERM');
    },
  };
  expect(() => dropPrivileges({ uid: 7, gid: 8 }, '/state', refusing, log)).toThrow('EPERM');
});
