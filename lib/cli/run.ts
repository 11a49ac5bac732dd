// run.ts: `ebpf-ckpt run -- PROGRAM`: a C program beside the daemon that serves it.

import type { ForwardedCommand } from './command';
import { daemon } from './daemon';

export const runCommand: ForwardedCommand = {
  name: 'run',
  summary: 'Runs a C program beside a daemon of its own: run [OPTION]... -- PROGRAM [ARGUMENT]...',
  forward: (args) => daemon(['run', ...args]),
};
