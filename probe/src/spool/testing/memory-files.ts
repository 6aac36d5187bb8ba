/** Files in memory that can fail in the ways disks do. */
import type { Random } from '@wanscope/shared/testing';
import type { SpoolFile, SpoolFiles } from '../files.ts';

interface Stored {
  octets: Buffer;
  /** How much of it outlives a power cut. */
  synced: number;
}

export type Operation = 'list' | 'create' | 'append' | 'sync' | 'read' | 'replace' | 'remove' | 'rename';

export class MemoryFiles implements SpoolFiles {
  readonly stored = new Map<string, Stored>();
  /** The error of an operation; undefined: it works. */
  fault: (operation: Operation, name: string) => string | undefined = () => undefined;
  /** Octets that can still be written before the process is gone. */
  octetsLeft = Infinity;
  readonly operations: Operation[] = [];

  async list(): Promise<{ name: string; bytes: number }[]> {
    await this.#begin('list', '');
    return [...this.stored].map(([name, { octets }]) => ({ name, bytes: octets.length }));
  }

  async create(name: string): Promise<SpoolFile> {
    await this.#begin('create', name);
    if (this.stored.has(name)) throw systemError('EEXIST');
    const stored: Stored = { octets: Buffer.alloc(0), synced: 0 };
    this.stored.set(name, stored);
    return {
      append: async (octets) => {
        await this.#begin('append', name);
        const room = Math.min(octets.length, this.octetsLeft);
        stored.octets = Buffer.concat([stored.octets, octets.subarray(0, room)]);
        this.octetsLeft -= room;
        if (room < octets.length) await gone();
      },
      sync: async () => {
        await this.#begin('sync', name);
        stored.synced = stored.octets.length;
      },
      close: () => Promise.resolve(),
    };
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    await this.#begin('read', name);
    const stored = this.stored.get(name);
    if (stored === undefined) throw systemError('ENOENT');
    return Uint8Array.from(stored.octets.subarray(offset, offset + length));
  }

  async replace(name: string, octets: Uint8Array): Promise<void> {
    await this.#begin('replace', name);
    this.stored.set(name, { octets: Buffer.from(octets), synced: octets.length });
  }

  async remove(name: string): Promise<void> {
    await this.#begin('remove', name);
    if (!this.stored.delete(name)) throw systemError('ENOENT');
  }

  async rename(name: string, to: string): Promise<void> {
    await this.#begin('rename', name);
    const stored = this.stored.get(name);
    if (stored === undefined) throw systemError('ENOENT');
    this.stored.delete(name);
    this.stored.set(to, stored);
  }

  /** The files as another process finds them: everything written, or after a power cut what was synced and a part of the rest. */
  after(powerCut: Random | undefined): MemoryFiles {
    const found = new MemoryFiles();
    for (const [name, { octets, synced }] of this.stored) {
      const length = powerCut === undefined ? octets.length : synced + powerCut.int(octets.length - synced + 1);
      found.stored.set(name, { octets: Buffer.from(octets.subarray(0, length)), synced: length });
    }
    return found;
  }

  async #begin(operation: Operation, name: string): Promise<void> {
    this.operations.push(operation);
    // As the system's calls do, it takes a turn.
    await Promise.resolve();
    if (this.octetsLeft <= 0) await gone();
    const code = this.fault(operation, name);
    if (code !== undefined) throw systemError(code);
  }
}

/** What a process that is gone waits for. */
async function gone(): Promise<never> {
  return new Promise<never>(() => undefined);
}

function systemError(code: string): Error {
  return Object.assign(new Error(`${code}: by the test`), { code });
}
