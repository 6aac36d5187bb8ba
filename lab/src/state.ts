/** What other processes need to know of a running lab: one file in its directory, replaced as a whole. */
import { readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LinkDirection } from './emulator.ts';
import { isAlive } from './namespaces.ts';
import type { Topology } from './topology.ts';

export interface LabState {
  /** Whose end makes the lab abandoned; names of namespaces and of the directory carry it. */
  readonly ownerPid: number;
  readonly emulatorPid: number;
  /** Made for the commands of `wan-lab`: not one of a test. */
  readonly byHand: boolean;
  readonly topology: Topology;
  readonly seed: number;
  readonly centre: string;
  /** Reports go over a network of their own. */
  readonly outOfBand: boolean;
  /** Of the SNMP agents; undefined where there are none. */
  readonly community: string | undefined;
  /** Links that carry no route now. */
  readonly avoid: readonly string[];
  /** Nodes that have another number than their place in the topology, hence other addresses. */
  readonly numbers: Readonly<Record<string, number>>;
  /** By link and direction, where it is not the usual. */
  readonly receivePowerDbm: Readonly<Record<string, Readonly<Partial<Record<LinkDirection, number>>>>>;
  /** Sites whose overlay was told to use an uplink. */
  readonly overlayVia: Readonly<Record<string, string>>;
  /** How long a site's service thinks before it answers. */
  readonly serviceDelayMs: Readonly<Record<string, number>>;
}

export const SOCKET_FILE = 'emulator.sock';
const STATE_FILE = 'lab.json';

/** Directories of the labs that run on this machine for the commands of `wan-lab`, newest first. */
export function runningLabs(): string[] {
  return readdirSync(tmpdir())
    .filter((name) => name.startsWith('wanscope-'))
    .map((name) => join(tmpdir(), name))
    .flatMap((directory) => {
      const state = readState(directory);
      return state?.byHand === true && isAlive(state.emulatorPid) ? [{ directory, pid: state.emulatorPid }] : [];
    })
    .sort((a, b) => b.pid - a.pid)
    .map(({ directory }) => directory);
}

/** The process that made a lab and removes it when it ends; undefined: `up` made it, or that process is no more. */
export function ownerOf(directory: string): number | undefined {
  const state = readState(directory);
  if (state === undefined || state.ownerPid === state.emulatorPid) return undefined;
  return isAlive(state.ownerPid) ? state.ownerPid : undefined;
}

/** Undefined where no lab is. */
export function readState(directory: string): LabState | undefined {
  try {
    return JSON.parse(readFileSync(join(directory, STATE_FILE), 'utf8')) as LabState;
  } catch {
    return undefined;
  }
}

/** Readers see the old state or the new one, never a part. */
export function writeState(directory: string, state: LabState): void {
  const file = join(directory, STATE_FILE);
  writeFileSync(`${file}.${process.pid}`, JSON.stringify(state));
  renameSync(`${file}.${process.pid}`, file);
}
