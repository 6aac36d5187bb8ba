/** The command line: a flag for each setting. Apart from the settings, since a probe that is started without flags does without. */
import { Command, CommanderError, Option } from 'commander';
import { SETTINGS, type Flags } from './config.ts';

export type CommandLine =
  | { readonly kind: 'flags'; readonly flags: Flags }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'problems'; readonly problems: readonly string[] };

/** @param argv arguments after the program's name. */
export function readFlags(argv: readonly string[], version: string): CommandLine {
  const command = new Command('wan-probe')
    .description('Measures the paths from here to other probes and targets, as the plan says.')
    .version(version)
    .allowExcessArguments(false)
    .exitOverride();
  let text = '';
  command.configureOutput({ writeOut: (part) => (text += part), writeErr: () => undefined });
  for (const setting of SETTINGS) {
    const flags = setting.value === undefined ? `--${setting.flag}` : `--${setting.flag} <${setting.value}>`;
    const standard = setting.standard === '' || setting.value === undefined ? '' : `, default ${setting.standard}`;
    command.addOption(new Option(flags, `${setting.help} [${setting.env}${standard}]`));
  }
  command.addOption(new Option('--healthcheck', 'ask the running probe at WAN_METRICS_LISTEN whether it is healthy'));
  try {
    command.parse([...argv], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return { kind: 'text', text };
    return { kind: 'problems', problems: [error.message.replace(/^error: /, '')] };
  }
  return { kind: 'flags', flags: command.opts<Flags>() };
}
