// round-trip.mjs: one checkpoint, ruin and restore in each layout; reports as JSON what came of it. usage: round-trip.mjs [MiB]
import { Buffer } from 'node:buffer';
import { checkpointSync, restoreSync, support } from 'ebpf-ckpt';

const bytes = Number(process.argv[2] ?? 1) * 2 ** 20;
const { ok: works, writers, problems } = support();
const report = { ok: false, works, writers, problems };

try {
  const buffer = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i += 512) buffer.writeUInt32LE(i ^ process.pid, i);
  const expected = Buffer.from(buffer);
  report.ok = ['fast', 'seed'].every((layout) => {
    const ckpt = checkpointSync({ regions: buffer, layout });
    buffer.fill(7);
    report.writer = restoreSync(ckpt).writer;
    return buffer.equals(expected);
  });
} catch (error) {
  report.code = error.code;
  report.message = error.message;
}
console.log(JSON.stringify(report));
