#!/usr/bin/env node
// main.ts: the command line: finds the command, parses its options, turns the outcome into an exit status.

import { parseArgs } from 'node:util';
import { CommandError, UsageError, type Command, type ForwardedCommand } from './command';
import { demoCommand } from './demo';
import { doctorCommand } from './doctor';
import { pathsCommand } from './paths';
import { runCommand } from './run';
import { serveCommand } from './serve';
import { commandUsage, usage } from './usage';
import { version } from './version';

const commands: readonly (Command | ForwardedCommand)[] = [doctorCommand, demoCommand, serveCommand, runCommand, pathsCommand];
const helpOption = { help: { type: 'boolean', short: 'h' } } as const;

/** parseArgs() with its complaints as UsageError. */
function parse(args: string[], options: Command['options']): Record<string, string | boolean | (string | boolean)[] | undefined> {
  try {
    return parseArgs({ args, options: { ...options, ...helpOption }, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

async function carryOut(command: Command | ForwardedCommand, args: string[]): Promise<number> {
  if ('forward' in command) return command.forward(args);
  const values = parse(args, command.options);
  if (values['help'] === true) {
    console.log(commandUsage(command));
    return 0;
  }
  return command.run(values);
}

async function run(args: string[]): Promise<number> {
  const [first, ...rest] = args;
  if (first === undefined) throw new UsageError('Expected a command');
  const command = commands.find(({ name }) => name === first);
  if (command !== undefined) return carryOut(command, rest);
  if (!first.startsWith('-')) throw new UsageError(`Unknown command '${first}'`);
  const values = parse(args, { version: { type: 'boolean', short: 'v' } });
  console.log(values['version'] === true ? version() : usage(commands));
  return 0;
}

function report(error: unknown): number {
  if (error instanceof UsageError) {
    console.error(`${error.message}\n\n${usage(commands)}`);
    return 2;
  }
  if (error instanceof CommandError) {
    console.error(error.message);
    return 1;
  }
  const { code, message, stack } = error as Error & { code?: string };
  const ours = typeof code === 'string' && code.startsWith('ERR_CKPT_');
  console.error(ours ? `${code}: ${message}\n'ebpf-ckpt doctor' tells what this machine can do.` : stack);
  return 1;
}

// A reader that has seen enough (| head) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit();
});

void run(process.argv.slice(2))
  .catch(report)
  .then((status) => {
    process.exitCode = status;
  });
