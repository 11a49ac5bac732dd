// child.ts: runs small programs of test/children, and commands, as processes of their own.

import { execFileSync, spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
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

let publicRoundTrip: string | undefined;

/** A copy of `round-trip` and of the package that every user can read: a checkout often lies where only its owner may look. */
function publicCopy(): string {
  if (publicRoundTrip !== undefined) return publicRoundTrip;
  const folder = mkdtempSync(join(tmpdir(), 'ebpf-ckpt-test-'));
  process.on('exit', () => {
    rmSync(folder, { recursive: true });
  });
  const root = join(__dirname, '..', '..');
  const copy = (from: string, to: string): void => {
    cpSync(join(root, from), join(folder, to), { recursive: true });
  };
  for (const part of ['package.json', 'dist', join('build', 'Release', 'ebpf_ckpt.node')])
    copy(part, join('node_modules', 'ebpf-ckpt', part));
  for (const name of ['bindings', 'file-uri-to-path']) copy(join('node_modules', name), join('node_modules', name));
  copy(join('test', 'children', 'round-trip.mjs'), 'round-trip.mjs');
  execFileSync('chmod', ['-R', 'a+rX', folder]);
  return (publicRoundTrip = join(folder, 'round-trip.mjs'));
}

/** Runs `round-trip` behind a command (setpriv, unshare ...) that ends in "node FILE". */
export async function roundTrip(prefix: readonly string[] = [], args: readonly string[] = []): Promise<RoundTrip> {
  const [command, ...rest] = [...prefix, process.execPath, publicCopy(), ...args] as [string, ...string[]];
  const { stdout, stderr } = await run(command, rest);
  try {
    return JSON.parse(stdout) as RoundTrip;
  } catch {
    throw new Error(`round-trip reported nothing:\n${stdout}${stderr}`);
  }
}
