// child.ts: runs small programs of test/children, and commands, as processes of their own.

import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

export interface Ended {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Path of a program of test/children. */
export const program = (name: string): string => join(__dirname, '..', 'children', `${name}.mjs`);

/** A child whose output is collected. */
export class Child {
  readonly process: ChildProcessWithoutNullStreams;
  stdout = '';
  stderr = '';
  readonly ended: Promise<Ended>;

  constructor(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.process = spawn(command, args, { env: { ...process.env, NODE_OPTIONS: '', ...env } });
    this.process.stdout.on('data', (data: Buffer) => (this.stdout += data.toString()));
    this.process.stderr.on('data', (data: Buffer) => (this.stderr += data.toString()));
    this.process.stdin.on('error', () => undefined); // it may end before it has read all
    this.ended = once(this.process, 'close').then(([status, signal]) => ({
      status: status as number | null,
      signal: signal as NodeJS.Signals | null,
      stdout: this.stdout,
      stderr: this.stderr,
    }));
  }

  /** Waits for a line that matches on its stdout; fails if it ends without one. */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.stdout);
      if (match !== null) return match;
      const next = await Promise.race([once(this.process.stdout, 'data'), this.ended]);
      if (!Array.isArray(next) && !pattern.test(this.stdout))
        throw new Error(`ended without saying ${pattern}:\n${this.stdout}${this.stderr}`);
    }
  }
}

/** Runs a command to its end. */
export function run(command: string, args: readonly string[], env?: NodeJS.ProcessEnv): Promise<Ended> {
  return new Child(command, args, env).ended;
}

/** What the program `round-trip` reports. */
export interface RoundTrip {
  ok: boolean;
  writer?: string;
  code?: string;
  message?: string;
  writers: string[];
  works: boolean;
  problems: { code: string; message: string; fix: string; fatal: boolean }[];
}

/** Runs `round-trip` behind a command (setpriv, unshare ...) that ends in "node FILE". */
export async function roundTrip(prefix: readonly string[] = [], args: readonly string[] = []): Promise<RoundTrip> {
  const [command, ...rest] = [...prefix, process.execPath, program('round-trip'), ...args] as [string, ...string[]];
  const { stdout, stderr } = await run(command, rest);
  try {
    return JSON.parse(stdout) as RoundTrip;
  } catch {
    throw new Error(`round-trip reported nothing:\n${stdout}${stderr}`);
  }
}
