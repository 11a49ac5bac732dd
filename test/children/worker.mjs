// worker.mjs: a Worker that checkpoints memory of its own, and some shared with the others, again and again; posts how often it came right.
import { parentPort, workerData } from 'node:worker_threads';
import { checkpointSync, restoreSync, stats } from 'ebpf-ckpt';

const { number, rounds, keep, shared } = workerData;
const own = new Uint8Array(200_000 + number * 4096 + number);
const slice = new Uint8Array(shared, number * 10_001, 10_001); // neighbours share pages with the next Worker

function round(i) {
  const value = (i * 7 + number) & 255;
  own.fill(value);
  slice.fill(value);
  const ckpt = checkpointSync({ regions: [own, slice], layout: i % 3 ? 'fast' : 'seed' });
  own.fill(value ^ 255);
  slice.fill(value ^ 255);
  restoreSync(ckpt);
  const right = own.every((byte) => byte === value) && slice.every((byte) => byte === value);
  if (i >= keep) ckpt.dispose();
  else kept.push(ckpt);
  return right;
}

const kept = [];
let right = 0;
for (let i = 0; i < rounds; i++) {
  if (round(i)) right++;
  if (i === 0) parentPort.postMessage({ started: true });
}
parentPort.postMessage({ right, kept: kept.length, alive: stats().checkpoints });
