/** The spool's files behind a port: one folder, files that only grow, and one that is replaced as a whole. */
import { constants } from 'node:fs';
import { mkdir, open, readdir, rename, stat, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';

/** A file that is being written. Errors are the system's. */
export interface SpoolFile {
  /** All of it or an error; after an error the end of the file may be anything. */
  append(octets: Uint8Array): Promise<void>;
  /** Resolves when everything appended outlives a power cut. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface SpoolFiles {
  /** Makes the folder where there is none. */
  list(): Promise<readonly { readonly name: string; readonly bytes: number }[]>;
  /** A new file, whose name outlives a power cut. */
  create(name: string): Promise<SpoolFile>;
  /** Fewer octets at the end of the file. */
  read(name: string, offset: number, length: number): Promise<Uint8Array>;
  /** The new content or the old one, also after a power cut. */
  replace(name: string, octets: Uint8Array): Promise<void>;
  remove(name: string): Promise<void>;
  /** Gives a file another name, in the place of what has it. */
  rename(name: string, to: string): Promise<void>;
}

export class FolderFiles implements SpoolFiles {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async list(): Promise<{ name: string; bytes: number }[]> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const found: { name: string; bytes: number }[] = [];
    for (const name of await readdir(this.#folder)) {
      found.push({ name, bytes: (await stat(join(this.#folder, name))).size });
    }
    return found;
  }

  async create(name: string): Promise<SpoolFile> {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_APPEND;
    const file = await open(join(this.#folder, name), flags, 0o600);
    try {
      await this.#syncFolder();
    } catch (error) {
      await file.close();
      throw error;
    }
    return {
      append: async (octets) => writeAll(file, octets),
      sync: async () => file.datasync(),
      close: async () => file.close(),
    };
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const file = await open(join(this.#folder, name), 'r');
    try {
      const octets = new Uint8Array(length);
      let filled = 0;
      while (filled < length) {
        const { bytesRead } = await file.read(octets, filled, length - filled, offset + filled);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
      return octets.subarray(0, filled);
    } finally {
      await file.close();
    }
  }

  async replace(name: string, octets: Uint8Array): Promise<void> {
    const temporary = join(this.#folder, `${name}.tmp`);
    const file = await open(temporary, 'w', 0o600);
    try {
      await writeAll(file, octets);
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(temporary, join(this.#folder, name));
    await this.#syncFolder();
  }

  async remove(name: string): Promise<void> {
    await unlink(join(this.#folder, name));
  }

  async rename(name: string, to: string): Promise<void> {
    await rename(join(this.#folder, name), join(this.#folder, to));
    await this.#syncFolder();
  }

  async #syncFolder(): Promise<void> {
    const folder = await open(this.#folder, 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }
}

/** A write may take less than it was given. */
async function writeAll(file: FileHandle, octets: Uint8Array): Promise<void> {
  let done = 0;
  while (done < octets.length) done += (await file.write(octets, done, octets.length - done)).bytesWritten;
}
