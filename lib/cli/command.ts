// command.ts: what a command of the CLI is.

import type { ParseArgsConfig } from 'node:util';

/** Values of the options given, as parseArgs() returns them. */
export type OptionValues = Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>;

export interface Command {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** Lines of help, one for each option. */
  readonly help: readonly string[];
  readonly options: NonNullable<ParseArgsConfig['options']>;
  /** Returns the exit status, or throws: UsageError for a bad option value. */
  run(values: OptionValues): Promise<number>;
}

/** A command that another executable parses and carries out. */
export interface ForwardedCommand {
  readonly name: string;
  readonly summary: string;
  /** Takes the arguments as they were typed. Returns the exit status. */
  forward(args: readonly string[]): Promise<number>;
}

/** Why a command cannot be carried out: said on stderr, exit status 1. */
export class CommandError extends Error {}

/** What the user typed makes no sense: said on stderr with the usage, exit status 2. */
export class UsageError extends Error {}
