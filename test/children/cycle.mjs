// cycle.mjs: checkpoints and restores without end in both layouts, and checks itself; says "ready" once it has come round.
import { Buffer } from 'node:buffer';
import { checkpointSync, restoreSync } from 'ebpf-ckpt';

const buffer = Buffer.alloc(3 * 2 ** 20, process.pid & 255);
for (let round = 0; ; round++) {
  buffer.fill(round & 255);
  const expected = Buffer.from(buffer);
  const ckpt = checkpointSync({ regions: buffer, layout: round % 2 ? 'seed' : 'fast' });
  buffer.fill((round + 1) & 255);
  restoreSync(ckpt);
  if (!buffer.equals(expected)) throw new Error(`round ${round} differs`);
  ckpt.dispose();
  if (round === 2) process.stdout.write('ready\n');
  if (round === Number(process.argv[2])) break;
}
