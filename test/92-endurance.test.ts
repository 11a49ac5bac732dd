// 92-endurance: thousands of checkpoints later everything the kernel counts is where it was.

import { expect } from 'chai';
import { checkpointSync, configure, restoreSync, settings, stats, type Settings } from 'ebpf-ckpt';
import { counts } from './counts';
import { copy, expectSame, fill } from './support/bytes';
import { descriptors, held, mapContent, mapCount, mapId, mapsNamed, nativeRss } from './support/kernel';

const MIB = 1 << 20;

describe('endurance', () => {
  // The pool stays, and the programs attached: what happens when idle is 70-memory's.
  let before: Settings;
  beforeEach(() => {
    before = settings();
    configure({ poolBytes: 512 * MIB, detachAfterMs: 600_000, shrinkAfterMs: 600_000 });
  });
  afterEach(() => {
    configure(before);
  });

  it(`${counts.cycles} cycles leave memory, descriptors, maps and programs as they were`, function () {
    this.timeout(120_000 * counts.patience);
    const region = Buffer.alloc(40_000);
    const expected = copy(fill(region, 1));
    const cycle = (i: number): void => {
      const ckpt = checkpointSync({ regions: region, layout: i % 4 ? 'fast' : 'seed' });
      region.fill(i, i % 40_000);
      restoreSync(ckpt);
      if (i % 64 === 0) expectSame(region, expected, `memory in cycle ${i}`);
      ckpt.dispose();
    };
    const figures = (): object => ({
      descriptors: descriptors().sort(),
      programs: held().programs.map(({ id }) => id),
      maps: held().maps.map(({ id }) => id),
      elements: mapCount(mapId('data_map', 'hash')),
      entries: mapsNamed('store_map', 'restore_map').map((id) => mapCount(id)),
    });
    for (let i = 0; i < counts.cycles / 10; i++) cycle(i);
    gc?.();
    const [start, resident] = [figures(), nativeRss()];
    for (let i = 0; i < counts.cycles; i++) cycle(i);
    gc?.();
    expect(figures()).to.deep.equal(start);
    expect(nativeRss() - resident).to.be.below(4 * MIB);
    expectSame(region, expected);
  });

  it(`${counts.warm} warm checkpoints update data_map never, by our count and by the kernel's`, () => {
    const region = Buffer.alloc(3 * MIB, 1);
    checkpointSync({ regions: region }).dispose();
    const outer = mapId('data_map', 'hash_of_maps');
    const [{ outerMapUpdates, segments }, content] = [stats(), mapContent(outer)];
    for (let i = 0; i < counts.warm; i++) {
      const ckpt = checkpointSync({ regions: region });
      region[i] = 2;
      restoreSync(ckpt);
      ckpt.dispose();
    }
    expect(stats()).to.deep.include({ outerMapUpdates, segments });
    expect(mapContent(outer)).to.equal(content);
    expect(JSON.parse(content)).to.have.lengthOf(segments);
  });
});
