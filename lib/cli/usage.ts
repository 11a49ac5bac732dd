// usage.ts: the help texts.

import type { Command, ForwardedCommand } from './command';

/** Help of the whole program. */
export function usage(commands: readonly (Command | ForwardedCommand)[]): string {
  const width = Math.max(...commands.map(({ name }) => name.length));
  return [
    'Usage: ebpf-ckpt COMMAND [OPTION]...',
    '',
    'Checkpoints the memory of a process into eBPF maps and brings it back, in place.',
    '',
    'Commands:',
    ...commands.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`),
    '',
    'Options:',
    '  -h, --help     this text; after a command, its options',
    '  -v, --version  the version of ebpf-ckpt',
  ].join('\n');
}

/** Help of one command. */
export function commandUsage(command: Command): string {
  return [
    `Usage: ebpf-ckpt ${command.name} [OPTION]...`,
    '',
    `${command.summary}.`,
    '',
    'Options:',
    ...command.help.map((line) => `  ${line}`),
    '  -h, --help     this text',
  ].join('\n');
}
