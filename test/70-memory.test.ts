// 70-memory: what page stores cost: the pool and its bounds, ceilings that are checked before anything moves, and what is given back when.

import { appendFileSync, existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { checkpointSync, configure, restoreSync, settings, stats, trim, type Settings } from 'ebpf-ckpt';
import { counts } from './counts';
import { Child, program } from './support/child';
import { copy, expectSame, fill, ruin } from './support/bytes';
import { attachments, until } from './support/kernel';
import { memtool } from './support/memory';
import { refused } from './support/refusal';
import { eachWay, layouts } from './support/ways';

const MIB = 1 << 20;

describe('memory', () => {
  let before: Settings;
  beforeEach(async () => {
    before = settings();
    await trim();
  });
  afterEach(() => {
    configure(before);
  });

  describe('ceilings', () => {
    for (const layout of layouts) {
      it(`maxBytes refuses what would go beyond it, before anything moves, layout ${layout}`, () => {
        const [region, other] = [Buffer.alloc(3 * MIB, 1), Buffer.alloc(2 * MIB, 2)];
        const ckpt = checkpointSync({ regions: region, layout });
        const { liveBytes } = stats();
        configure({ maxBytes: liveBytes + MIB });
        const { triggers, checkpoints } = stats();
        const { message } = refused('ERR_CKPT_NO_ROOM', () => checkpointSync({ regions: other, layout }));
        expect(message).to.match(/maxBytes/);
        expect([stats().triggers, stats().checkpoints, stats().liveBytes]).to.deep.equal([triggers, checkpoints, liveBytes]);
        ckpt.dispose();
        configure({ maxBytes: liveBytes + MIB });
        checkpointSync({ regions: other, layout }).dispose();
      });
    }

    it('maxBytes counts what is stored, not what was never touched', () => {
      configure({ maxBytes: stats().liveBytes + MIB });
      checkpointSync({ regions: new ArrayBuffer(64 * MIB) }).dispose();
    });

    it('the headroom of the cgroup is checked before anything moves', async function () {
      this.timeout(30_000 * counts.patience);
      const group = makeMemoryGroup(160 * MIB);
      try {
        const child = new Child(process.execPath, [program('in-group'), '110'], { CKPT_TEST_GROUP: group });
        const { stdout, stderr, signal } = await child.ended;
        expect(signal, stderr).to.equal(null);
        const report = JSON.parse(stdout) as { code: string; message: string; checkpoints: number; triggers: number; small: boolean };
        expect(report.code, report.message).to.equal('ERR_CKPT_NO_ROOM');
        expect(report.message).to.match(/cgroup/i);
        expect(report).to.deep.include({ checkpoints: 0, triggers: 0, small: true });
      } finally {
        rmdirSync(group);
      }
    });
  });

  describe('stats()', () => {
    it('counts live bytes as they are stored and given back', () => {
      for (const layout of layouts) {
        const { liveBytes, checkpoints } = stats();
        const ckpt = checkpointSync({ regions: Buffer.alloc(2 * MIB, 1), layout });
        expect(stats().liveBytes - liveBytes).to.be.within(2 * MIB, 2 * MIB + 2 * 4096);
        expect(stats().checkpoints).to.equal(checkpoints + 1);
        ckpt.dispose();
        expect([stats().liveBytes, stats().checkpoints]).to.deep.equal([liveBytes, checkpoints]);
      }
    });

    it('is charged to V8 as external memory while it is held', () => {
      const buffer = Buffer.alloc(32 * MIB, 1);
      const charged = (): number => memtool.externalMemory() - start;
      const start = memtool.externalMemory();
      const ckpt = checkpointSync({ regions: buffer });
      expect(charged()).to.be.within(31 * MIB, 34 * MIB);
      ckpt.dispose();
      expect(Math.abs(charged())).to.be.below(MIB);
    });
  });

  describe('the pool', () => {
    it('keeps what was disposed of and serves the next checkpoint from it', () => {
      configure({ poolBytes: 256 * MIB });
      const buffer = Buffer.alloc(20 * MIB, 1);
      checkpointSync({ regions: buffer }).dispose();
      const { pooledBytes, outerMapUpdates, segments } = stats();
      expect(pooledBytes).to.be.at.least(20 * MIB);
      const ckpt = checkpointSync({ regions: buffer });
      expect(stats()).to.deep.include({ outerMapUpdates, segments });
      expect(stats().pooledBytes).to.be.at.most(pooledBytes - 20 * MIB);
      ckpt.dispose();
    });

    it('keeps no more than poolBytes', async () => {
      configure({ poolBytes: 8 * MIB });
      const ckpts = [1, 2, 3].map((value) => checkpointSync({ regions: Buffer.alloc(40 * MIB, value) }));
      for (const ckpt of ckpts) ckpt.dispose();
      await until('the pool has shrunk', () => stats().pooledBytes <= 8 * MIB);
    });

    it('keeps nothing for poolBytes: 0', async () => {
      configure({ poolBytes: 0 });
      checkpointSync({ regions: Buffer.alloc(5 * MIB, 1) }).dispose();
      await until('the pool is empty', () => stats().pooledBytes === 0 && stats().segments === 0);
    });

    it('is emptied by trim(), which also detaches the programs', async () => {
      checkpointSync({ regions: Buffer.alloc(5 * MIB, 1) }).dispose();
      expect([stats().attached, attachments()]).to.deep.equal([true, 2]);
      await trim();
      expect(stats()).to.deep.include({ pooledBytes: 0, segments: 0, attached: false });
      expect(attachments()).to.equal(0);
    });

    it('keeps what live checkpoints hold through trim()', async () => {
      const buffer = Buffer.alloc(5 * MIB);
      const expected = copy(fill(buffer, 1));
      const ckpt = checkpointSync({ regions: buffer });
      await trim();
      expect(stats().liveBytes).to.be.at.least(5 * MIB);
      ruin(buffer);
      restoreSync(ckpt);
      expectSame(buffer, expected);
      ckpt.dispose();
    });

    it('shrinks and detaches when idle, and works again after', async () => {
      configure({ detachAfterMs: 50, shrinkAfterMs: 50 });
      const buffer = Buffer.alloc(5 * MIB);
      const expected = copy(fill(buffer, 1));
      const ckpt = checkpointSync({ regions: buffer });
      checkpointSync({ regions: buffer }).dispose();
      await until('the programs are detached', () => !stats().attached && attachments() === 0);
      await until('what was free is given back', () => stats().pooledBytes < 5 * MIB);
      ruin(buffer);
      restoreSync(ckpt);
      expectSame(buffer, expected);
      ckpt.dispose();
      await until('the pool is empty', () => stats().pooledBytes === 0);
    });

    it('gets back the store of a checkpoint that nobody holds any more', async () => {
      const { checkpoints, liveBytes } = stats();
      (() => void checkpointSync({ regions: Buffer.alloc(2 * MIB, 1) }))();
      expect(stats().checkpoints).to.equal(checkpoints + 1);
      await until('the garbage collector has found it', () => {
        gc?.();
        return stats().checkpoints <= checkpoints && stats().liveBytes <= liveBytes;
      });
    });

    it('scatters a store over what is free, and finds all of it again', () => {
      configure({ poolBytes: 512 * MIB });
      const regions = Array.from({ length: 16 }, (_, index) => fill(Buffer.alloc(MIB), index));
      const small = regions.map((region) => checkpointSync({ regions: region }));
      small.filter((_, index) => index % 2 === 0).forEach((ckpt) => ckpt.dispose());
      const large = Buffer.alloc(8 * MIB);
      const expected = copy(fill(large, 77));
      const ckpt = checkpointSync({ regions: large });
      ruin(large);
      restoreSync(ckpt);
      expectSame(large, expected);
      regions.forEach((region, index) => {
        if (index % 2 === 0) return;
        const kept = copy(region);
        ruin(region);
        restoreSync(small[index] as (typeof small)[number]);
        expectSame(region, kept, `region ${index}`);
      });
      for (const one of [...small, ckpt]) one.dispose();
    });
  });

  eachWay(({ layout, writer }) => {
    it('used again for another image shows nothing of the one before', () => {
      const first = Buffer.alloc(2 * MIB, 0xaa);
      checkpointSync({ regions: first, layout }).dispose();
      const second = Buffer.alloc(2 * MIB - 4099, 0x55);
      const ckpt = checkpointSync({ regions: second, layout });
      second.fill(0);
      restoreSync(ckpt, { writer });
      expectSame(second, new Uint8Array(second.length).fill(0x55));
      ckpt.dispose();
    });
  });
});

/** Makes a memory cgroup with a limit below the one we are in, version 1 or 2; returns its folder. */
function makeMemoryGroup(limit: number): string {
  const own = /^\d+:memory:(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'latin1'))?.[1];
  const [parent, file] = own === undefined ? ['/sys/fs/cgroup', 'memory.max'] : [`/sys/fs/cgroup/memory${own}`, 'memory.limit_in_bytes'];
  if (own === undefined && !readFileSync(`${parent}/cgroup.subtree_control`, 'latin1').includes('memory')) {
    appendFileSync(`${parent}/cgroup.subtree_control`, '+memory');
  }
  const group = `${parent}/ebpf-ckpt-test-${process.pid}`;
  mkdirSync(group);
  expect(existsSync(`${group}/${file}`), 'the memory controller').to.equal(true);
  writeFileSync(`${group}/${file}`, String(limit));
  return group;
}
