// in-group.mjs: goes into the cgroup of CKPT_TEST_GROUP, fills so many MiB and checkpoints them, then a little; reports as JSON.
import { Buffer } from 'node:buffer';
import { writeFileSync } from 'node:fs';
import { checkpointSync, restoreSync, stats } from 'ebpf-ckpt';

writeFileSync(`${process.env.CKPT_TEST_GROUP}/cgroup.procs`, String(process.pid));
const buffer = Buffer.alloc(Number(process.argv[2]) * 2 ** 20, 1);
const report = {};
try {
  checkpointSync({ regions: buffer }).dispose();
} catch (error) {
  Object.assign(report, { code: error.code, message: error.message });
}
const { checkpoints, triggers } = stats();

const little = buffer.subarray(0, 100_000);
const ckpt = checkpointSync({ regions: little });
little.fill(2);
restoreSync(ckpt);
console.log(JSON.stringify({ ...report, checkpoints, triggers, small: little.every((byte) => byte === 1) }));
