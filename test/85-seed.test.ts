// 85-seed: the seed's literal layout: one element of data_map for each page, one page a trigger. The rest of the suite runs with it too.

import { expect } from 'chai';
import { checkpointSync, restoreSync, stats, trim, type Checkpoint } from 'ebpf-ckpt';
import { copy, expectSame, fill, ruin } from './support/bytes';
import { mapCount, mapId, until } from './support/kernel';
import { freeMappings, Mapping, PAGE } from './support/memory';
import { refused } from './support/refusal';
import { writers } from './support/ways';

const seed = (region: Uint8Array): Checkpoint => checkpointSync({ regions: region, layout: 'seed' });
/** Elements of data_map, by the kernel's own listing. */
const elements = (): number => mapCount(mapId('data_map', 'hash'));

describe("layout 'seed'", () => {
  afterEach(freeMappings);

  it('moves one page a trigger, both ways', () => {
    const mapping = Mapping.private(50 * PAGE);
    fill(mapping.view, 1);
    const ckpt = seed(mapping.view);
    expect([ckpt.pages, ckpt.stats.triggers]).to.deep.equal([50, 50]);
    for (const writer of writers) {
      const { triggers, pages } = restoreSync(ckpt, { writer });
      expect([triggers, pages]).to.deep.equal([50, 50]);
    }
    ckpt.dispose();
  });

  it('keeps one element of data_map for each page, until some time after the checkpoint is disposed of', async () => {
    const mapping = Mapping.private(30 * PAGE);
    fill(mapping.view, 1);
    seed(mapping.view).dispose();
    await trim();
    const before = elements();
    const first = seed(mapping.view);
    expect(elements()).to.equal(before + 30);
    const second = seed(mapping.at(100, PAGE));
    expect(elements()).to.equal(before + 32);
    first.dispose();
    await until('its elements are gone, and no others', () => elements() === before + 2);
    second.dispose();
    await until('all are gone', () => elements() === before);
  });

  it('keeps nothing of a capture that is aborted', async () => {
    const mapping = Mapping.private(30 * PAGE);
    fill(mapping.view, 1);
    seed(mapping.view).dispose();
    await trim();
    const before = elements();
    const onProgress = ({ donePages }: { donePages: number }): void => {
      if (donePages === 20) throw new Error('enough');
    };
    expect(() => checkpointSync({ regions: mapping.view, layout: 'seed', onProgress })).to.throw('aborted');
    await until('its elements are gone', () => elements() === before);
  });

  it('refuses an image larger than it may hold, before anything moves', () => {
    const mapping = Mapping.shared(2 ** 30 + PAGE); // shared: pages that others may have written count as there
    const { triggers, checkpoints, liveBytes } = stats();
    const { message } = refused('ERR_CKPT_NO_ROOM', () => seed(mapping.view));
    expect(message).to.match(/at most \d+ pages \(\d+ MiB\) in all here, and the checkpoint has 262145/);
    expect(stats()).to.deep.include({ triggers, checkpoints, liveBytes });
  });

  it('lives beside the fast one over the same memory', () => {
    const buffer = Buffer.alloc(100_000);
    const older = copy(fill(buffer, 1));
    const inSeed = seed(buffer);
    const newer = copy(fill(buffer, 2));
    const inFast = checkpointSync({ regions: buffer });
    ruin(buffer);
    restoreSync(inSeed);
    expectSame(buffer, older);
    restoreSync(inFast);
    expectSame(buffer, newer);
    expect([inSeed.layout, inFast.layout]).to.deep.equal(['seed', 'fast']);
    inSeed.dispose();
    inFast.dispose();
  });

  it('takes no segment of the other layout', () => {
    const { segments, outerMapUpdates } = stats();
    seed(Buffer.alloc(300_000, 1)).dispose();
    expect(stats()).to.deep.include({ segments, outerMapUpdates });
  });
});
