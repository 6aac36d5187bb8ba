/**
 * The configuration that the whole fleet had last, kept beside the collector's state: after a restart a file that has changed
 * meanwhile, or was on its way, goes out in rings as any other does, and there is something to go back to.
 */
import { join } from 'node:path';
import { InvalidConfiguration } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';
import type { Logger } from './log.ts';
import { StateFile } from './state-file.ts';

/** The text may have SECRETs in it: mode 0600. */
export const SETTLED_CONFIG_FILE = 'configuration-settled.yaml';

export class SettledConfig {
  readonly #file: StateFile;
  readonly #logger: Logger;
  readonly #parse: (text: string) => OperatorConfig;
  /** What each configuration was read from. */
  readonly #texts = new WeakMap<OperatorConfig, string>();

  /** @param parse throws InvalidConfiguration; reads what the text names where the operator's file does. */
  constructor(stateDir: string, logger: Logger, parse: (text: string) => OperatorConfig) {
    this.#file = new StateFile(join(stateDir, SETTLED_CONFIG_FILE));
    this.#logger = logger;
    this.#parse = parse;
  }

  /** Says what a configuration was read from. */
  isFrom(config: OperatorConfig, text: string): void {
    this.#texts.set(config, text);
  }

  /** Undefined when there is none, or none that can be read today. */
  load(): OperatorConfig | undefined {
    try {
      return this.#file.load((text) => {
        const config = this.#parse(text);
        this.isFrom(config, text);
        return config;
      });
    } catch (error) {
      this.#logger.warn(
        { file: this.#file.path, problems: error instanceof InvalidConfiguration ? error.problems : [String(error)] },
        'the configuration of before cannot be read: the new one goes to all',
      );
      return undefined;
    }
  }

  /** The whole fleet has it. */
  keep(config: OperatorConfig): void {
    const text = this.#texts.get(config);
    if (text === undefined) return;
    try {
      this.#file.write(text);
    } catch (error) {
      this.#logger.warn(
        { error: String(error) },
        'the configuration that the fleet has cannot be kept: after a restart it goes to all',
      );
    }
  }
}
