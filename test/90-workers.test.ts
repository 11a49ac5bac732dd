// 90-workers: one engine for all threads: Workers checkpoint at once, and what one leaves behind goes with it.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { checkpointSync, restoreSync, stats } from 'ebpf-ckpt';
import { counts } from './counts';
import { copy, expectSame, fill, ruin } from './support/bytes';
import { program } from './support/child';
import { until } from './support/kernel';

interface Report {
  right: number;
  kept: number;
  alive: number;
}

const WORKERS = 4;

/** A Worker that goes round so often and keeps the first few of its checkpoints. */
function start(number: number, rounds: number, keep: number, shared: SharedArrayBuffer): Worker {
  return new Worker(program('worker'), { workerData: { number, rounds, keep, shared }, execArgv: [] });
}

/** What the Worker posts at its end. */
async function report(worker: Worker): Promise<Report> {
  for (;;) {
    const [message] = (await once(worker, 'message')) as [Report | { started: true }];
    if (!('started' in message)) return message;
  }
}

describe('Workers', () => {
  const shared = new SharedArrayBuffer(WORKERS * 10_001);

  it('four at once and the main thread each get their own bytes back', async () => {
    const { checkpoints } = stats();
    const workers = Array.from({ length: WORKERS }, (_, number) => start(number, counts.perWorker, 3, shared));
    const [exits, reports] = [workers.map((worker) => once(worker, 'exit')), workers.map(report)];
    const own = Buffer.alloc(300_000);
    const progress = { done: false };
    const all = Promise.all(reports).finally(() => (progress.done = true));
    let rounds = 0;
    while (!progress.done) {
      const expected = copy(fill(own, rounds++));
      const ckpt = checkpointSync({ regions: own });
      ruin(own);
      restoreSync(ckpt);
      expectSame(own, expected);
      ckpt.dispose();
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect((await all).map(({ right, kept }) => [right, kept])).to.deep.equal(Array(WORKERS).fill([counts.perWorker, 3]));
    await Promise.all(exits);
    expect(rounds).to.be.greaterThan(1);
    await until('what the Workers kept is gone', () => stats().checkpoints <= checkpoints);
  });

  it('one terminated half way disturbs nobody and leaves nothing', async () => {
    const { checkpoints, liveBytes } = stats();
    const region = Buffer.alloc(50_000);
    const expected = copy(fill(region, 5));
    const ckpt = checkpointSync({ regions: region });
    const [victim, other] = [start(0, 1e9, 5, shared), start(1, counts.perWorker, 0, shared)];
    await once(victim, 'message');
    const ends = report(other);
    await victim.terminate();
    expect((await ends).right).to.equal(counts.perWorker);
    ruin(region);
    restoreSync(ckpt);
    expectSame(region, expected);
    ckpt.dispose();
    await until('nothing of it is left', () => {
      const now = stats();
      return now.checkpoints <= checkpoints && now.liveBytes <= liveBytes && now.operations === 0;
    });
  });

  it('come and go', async () => {
    const { checkpoints } = stats();
    for (let i = 0; i < 5; i++) {
      const worker = start(i % WORKERS, 2, 1, shared);
      const [{ right }] = await Promise.all([report(worker), once(worker, 'exit')]);
      expect(right).to.equal(2);
    }
    await until('what they kept is gone', () => stats().checkpoints <= checkpoints);
  });
});
