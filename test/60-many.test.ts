// 60-many: many checkpoints alive at once, each restorable any number of times, none mistaken for another.

import { expect } from 'chai';
import fc from 'fast-check';
import { checkpoint, checkpointSync, restore, restoreSync, stats, type Checkpoint } from 'ebpf-ckpt';
import { counts } from './counts';
import { copy, expectSame, fill, ruin } from './support/bytes';
import { refused, rejected } from './support/refusal';
import { eachWay, layouts } from './support/ways';

interface Kept {
  ckpt: Checkpoint;
  expected: Uint8Array;
}

describe('a disposed checkpoint', () => {
  for (const layout of layouts) {
    it(`cannot be restored, layout ${layout}`, async () => {
      const region = Buffer.alloc(5000, 1);
      const ckpt = checkpointSync({ regions: region, layout });
      ckpt.dispose();
      region.fill(2);
      const { message } = refused('ERR_CKPT_DISPOSED', () => restoreSync(ckpt));
      expect(message).to.include(String(ckpt.id));
      await rejected('ERR_CKPT_DISPOSED', restore(ckpt));
      expectSame(region, new Uint8Array(5000).fill(2));
    });
  }

  it('may be disposed again, says that it is, and still tells its figures', () => {
    const ckpt = checkpointSync({ regions: Buffer.alloc(5000, 1) });
    const { id, bytes, pages } = ckpt;
    ckpt.dispose();
    ckpt.dispose();
    expect(ckpt.disposed).to.equal(true);
    expect([ckpt.id, ckpt.bytes, ckpt.pages, ckpt.stats.storedBytes >= 5000]).to.deep.equal([id, bytes, pages, true]);
    expect(String(ckpt)).to.include('disposed');
  });

  it('is not brought back by a later one in its place', () => {
    const first = checkpointSync({ regions: Buffer.alloc(5000, 1) });
    first.dispose();
    const second = checkpointSync({ regions: Buffer.alloc(5000, 2) });
    expect(second.id).to.be.greaterThan(first.id);
    expect(first.disposed).to.equal(true);
    refused('ERR_CKPT_DISPOSED', () => restoreSync(first));
    first.dispose();
    expect(second.disposed).to.equal(false);
    second.dispose();
  });

  it('is disposed by Symbol.dispose', () => {
    const ckpt = checkpointSync({ regions: Buffer.alloc(50) });
    ckpt[Symbol.dispose]();
    expect(ckpt.disposed).to.equal(true);
  });
});

describe('many checkpoints', () => {
  eachWay(({ layout, writer }) => {
    it('of one region, each of another moment, come back in any order', () => {
      const region = Buffer.alloc(20_001).subarray(1);
      const before = stats().checkpoints;
      const kept = Array.from({ length: counts.alive }, (_, moment): Kept => {
        fill(region, moment);
        return { ckpt: checkpointSync({ regions: region, layout }), expected: copy(region) };
      });
      expect(stats().checkpoints).to.equal(before + counts.alive);
      for (let i = 0; i < 2 * counts.alive; i++) {
        const { ckpt, expected } = kept[(i * 7919) % counts.alive] as Kept;
        restoreSync(ckpt, { writer });
        expectSame(region, expected, `checkpoint ${ckpt.id}`);
      }
      expect(kept.map(({ ckpt }) => ckpt.restores)).to.deep.equal(Array(counts.alive).fill(2));
      for (const { ckpt } of kept) ckpt.dispose();
      expect(stats().checkpoints).to.equal(before);
    });

    it('made, restored and disposed at random agree with plain copies', () => {
      const step = fc.record({
        what: fc.constantFrom('make', 'restore', 'dispose'),
        which: fc.nat(),
        from: fc.nat(29_999),
        bytes: fc.nat(40_000),
      });
      fc.assert(
        fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
          const region = fill(new Uint8Array(30_000), 1);
          const model = copy(region);
          const alive: (Kept & { from: number })[] = [];
          steps.forEach(({ what, which, from, bytes }, time) => {
            const view = region.subarray(from, from + bytes);
            if (what === 'make') alive.push({ ckpt: checkpointSync({ regions: view, layout }), expected: copy(view), from });
            const index = which % Math.max(1, alive.length);
            const one = alive[index];
            if (what === 'restore' && one !== undefined) {
              restoreSync(one.ckpt, { writer });
              model.set(one.expected, one.from);
            }
            if (what === 'dispose') for (const { ckpt } of alive.splice(index, 1)) ckpt.dispose();
            expectSame(region, model, `memory after step ${time}`);
            fill(region.subarray(time * 700, time * 700 + 900), time);
            model.set(region.subarray(time * 700, time * 700 + 900), time * 700);
          });
          for (const { ckpt } of alive) ckpt.dispose();
        }),
        { numRuns: Math.ceil(counts.properties / 5) },
      );
    });

    it('one is restored thousands of times', () => {
      const region = Buffer.alloc(9000);
      const expected = copy(fill(region, 1));
      const ckpt = checkpointSync({ regions: region, layout });
      for (let i = 0; i < counts.restores; i++) {
        region.fill(i, i % 9000);
        restoreSync(ckpt, { writer });
        if (i % 100 === 0) expectSame(region, expected, `memory after restore ${i}`);
      }
      expectSame(region, expected);
      expect(ckpt.restores).to.equal(counts.restores);
      ckpt.dispose();
    });
  });

  it('begun at once by promises each have their bytes', async () => {
    const regions = Array.from({ length: 20 }, (_, index) => fill(Buffer.alloc(10_000), index));
    const expected = regions.map(copy);
    const ckpts = await Promise.all(regions.map((region) => checkpoint({ regions: region })));
    expect(new Set(ckpts.map(({ id }) => id)).size).to.equal(20);
    regions.forEach(ruin);
    await Promise.all(ckpts.map((ckpt) => restore(ckpt)));
    regions.forEach((region, index) => expectSame(region, expected[index] as Uint8Array));
    for (const ckpt of ckpts) ckpt.dispose();
  });
});
