/** What changed between two rosters, for the audit: who is in, who is out. Pure. */
import { formatIdentity, isoTime, type Enrolled, type Roster } from '@wanscope/shared';
import type { AuditAction } from './audit.ts';

export interface RosterChange {
  readonly action: Extract<AuditAction, 'enrol' | 'revoke'>;
  readonly what: string;
  readonly old: unknown;
  readonly now: unknown;
}

/** More at once are one entry of the audit. */
const MOST = 100;

/** Enrolments by their key: a probe that is replaced is revoked and enrolled. */
export function rosterChanges(before: Roster | undefined, after: Roster | undefined): readonly RosterChange[] {
  const old = new Map((before?.probes ?? []).map((probe) => [probe.key, probe]));
  const changes: RosterChange[] = [];
  for (const probe of after?.probes ?? []) {
    const known = old.get(probe.key);
    old.delete(probe.key);
    if (known === undefined || known.expiresAtMs !== probe.expiresAtMs) {
      changes.push({ action: 'enrol', what: formatIdentity(probe), old: known && shown(known), now: shown(probe) });
    }
    if (probe.revokedAtMs !== undefined && known?.revokedAtMs === undefined) {
      changes.push({ action: 'revoke', what: formatIdentity(probe), old: { key: probe.key }, now: shown(probe) });
    }
  }
  for (const gone of old.values()) {
    changes.push({ action: 'revoke', what: formatIdentity(gone), old: shown(gone), now: undefined });
  }
  if (changes.length <= MOST) return changes;
  const enrolled = changes.filter(({ action }) => action === 'enrol').length;
  return [
    {
      action: 'enrol',
      what: 'many probes',
      old: { probes: before?.probes.length ?? 0 },
      now: { probes: after?.probes.length ?? 0, enrolled, revoked: changes.length - enrolled },
    },
  ];
}

function shown({ key, expiresAtMs, revokedAtMs }: Enrolled): object {
  return {
    key,
    ...(expiresAtMs !== undefined && { expires: isoTime(expiresAtMs) }),
    ...(revokedAtMs !== undefined && { revoked: isoTime(revokedAtMs) }),
  };
}
