// serve.ts: `ebpf-ckpt serve`: the daemon.

import type { ForwardedCommand } from './command';
import { daemon } from './daemon';

export const serveCommand: ForwardedCommand = {
  name: 'serve',
  summary: 'Serves C programs that save and recover their memory; --help tells its options',
  forward: (args) => daemon(['serve', ...args]),
};
