/** Small files of the state directory: whole or as they were before, also after a power cut, and for their owner only. */
import { closeSync, fsyncSync, openSync, renameSync, statfsSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** @throws the system's error; the old file stays then. */
export function writeKept(file: string, bytes: Uint8Array | string): void {
  const temporary = `${file}.tmp`;
  const descriptor = openSync(temporary, 'w', 0o600);
  try {
    writeFileSync(descriptor, bytes);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(temporary, file);
  const directory = openSync(dirname(file), 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

/** Types of file systems that live in memory, statfs(2). */
const TMPFS = 0x0102_1994;
const RAMFS = 0x8584_58f6;

/** Whether what is written there is gone after a power cut: the folder is in memory. */
export function isInMemory(directory: string): boolean {
  try {
    const { type } = statfsSync(directory);
    return type === TMPFS || type === RAMFS;
  } catch {
    return false;
  }
}
