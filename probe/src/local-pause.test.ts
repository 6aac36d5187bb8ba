import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LocalPause } from './local-pause.ts';

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

describe('a pause of the branch itself', () => {
  let folder: string;
  let file: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'wan-pause-'));
    file = join(folder, 'state', 'paused');
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it('is a file that anybody on the router can make and remove', () => {
    const pause = new LocalPause(join(folder, 'paused'), log);
    expect(pause.isOn).toBe(false);
    writeFileSync(join(folder, 'paused'), '');
    expect(pause.isOn).toBe(true);
    rmSync(join(folder, 'paused'));
    expect(pause.isOn).toBe(false);
  });

  it('is turned on and off by a signal, and survives a restart', () => {
    const pause = new LocalPause(file, log);
    pause.toggle();
    expect([pause.isOn, existsSync(file), new LocalPause(file, log).isOn]).toEqual([true, true, true]);
    pause.toggle();
    expect([pause.isOn, existsSync(file)]).toEqual([false, false]);
  });

  it('holds in memory where no file can be written', () => {
    writeFileSync(join(folder, 'state'), 'a file where a folder should be');
    const pause = new LocalPause(file, log);
    pause.toggle();
    expect(pause.isOn).toBe(true);
    pause.toggle();
    expect(pause.isOn).toBe(false);
  });
});
