// daemon.ts: runs the daemon's executable and lends it this process's terminal, signals and exit status.

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { setTimeout } from 'node:timers/promises';
import { CommandError } from './command';
import { executable } from './executable';

/** Passed on. The daemon tells those that reached it anyway (^C on a terminal) from those that did not. */
const signals: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'];

/** The daemon takes it out of its environment, and ends when this process dies (native/daemon/parent.h). */
const PARENT = 'EBPF_CKPT_PARENT';

/** Ends this process by a signal; returns the exit status that stands for it if it survives. */
async function endBy(signal: NodeJS.Signals): Promise<number> {
  process.kill(process.pid, signal);
  await setTimeout(500);
  return 128 + constants.signals[signal];
}

async function ended(child: ChildProcess): Promise<[number | null, NodeJS.Signals | null]> {
  try {
    return (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  } catch (error) {
    throw new CommandError(`${child.spawnfile} cannot be run: ${(error as Error).message}`);
  }
}

/** Runs the daemon's executable with these arguments until it ends; this process ends in the same way. */
export async function daemon(args: readonly string[]): Promise<number> {
  const file = executable('ebpf-ckpt-daemon');
  const passOn = (signal: NodeJS.Signals): void => void child.kill(signal);
  for (const signal of signals) process.on(signal, passOn);
  const child = spawn(file, args, { stdio: 'inherit', env: { ...process.env, [PARENT]: String(process.pid) } });
  const [status, signal] = await ended(child);
  for (const each of signals) process.off(each, passOn);
  return signal === null ? (status ?? 1) : endBy(signal);
}
