// 40-progress: how far it is, page by page where asked for, else once a trigger; by callback, emitter or async iterator.

import { EventEmitter, on } from 'node:events';
import { expect } from 'chai';
import { checkpoint, checkpointSync, restoreSync, type Progress } from 'ebpf-ckpt';
import { fill } from './support/bytes';
import { freeMappings, Mapping, PAGE } from './support/memory';
import { eachWay } from './support/ways';

/** Collects events. */
function collector(): { events: Progress[]; onProgress: (event: Progress) => void } {
  const events: Progress[] = [];
  return { events, onProgress: (event) => events.push(event) };
}

describe('progress', () => {
  afterEach(freeMappings);

  eachWay(({ layout, writer }) => {
    it('comes once for each page, in order, for pagesPerTrigger: 1', () => {
      const mapping = Mapping.private(20 * PAGE);
      fill(mapping.view, 1);
      const regions = [mapping.at(100, 5 * PAGE), mapping.at(10 * PAGE, 3 * PAGE)];
      const [there, back] = [collector(), collector()];
      const ckpt = checkpointSync({ regions, layout, pagesPerTrigger: 1, onProgress: there.onProgress });
      restoreSync(ckpt, { writer, pagesPerTrigger: 1, onProgress: back.onProgress });
      for (const [phase, { events }] of Object.entries({ checkpoint: there, restore: back })) {
        expect(events.length, phase).to.equal(6 + 3);
        expect(events.map(({ page }) => page)).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 7, 8]);
        expect(events.map(({ donePages }) => donePages)).to.deep.equal([1, 2, 3, 4, 5, 6, 7, 8, 9]);
        expect(events.every((event) => event.phase === phase && event.totalPages === 9)).to.equal(true);
      }
      ckpt.dispose();
    });

    it('tells the address and the bytes of each page, less at the edges', () => {
      const mapping = Mapping.private(4 * PAGE);
      fill(mapping.view, 1);
      const { events, onProgress } = collector();
      const ckpt = checkpointSync({ regions: mapping.at(100, 2 * PAGE), layout, pagesPerTrigger: 1, onProgress });
      expect(events.map(({ address }) => address - mapping.address)).to.deep.equal([100, PAGE, 2 * PAGE]);
      expect(events.map(({ doneBytes }) => doneBytes)).to.deep.equal([PAGE - 100, 2 * PAGE - 100, 2 * PAGE]);
      expect(events.map(({ totalBytes }) => totalBytes)).to.deep.equal(Array(3).fill(2 * PAGE));
      ckpt.dispose();
    });

    it('leaves out pages that were never touched', () => {
      const mapping = Mapping.private(8 * PAGE);
      for (const page of [1, 2, 6]) mapping.view[page * PAGE] = 1;
      const [there, back] = [collector(), collector()];
      const ckpt = checkpointSync({ regions: mapping.view, layout, pagesPerTrigger: 1, onProgress: there.onProgress });
      restoreSync(ckpt, { writer, pagesPerTrigger: 1, onProgress: back.onProgress });
      expect(there.events.map(({ address }) => (address - mapping.address) / PAGE)).to.deep.equal([1, 2, 6]);
      expect(back.events.map(({ donePages, totalPages }) => [donePages, totalPages])).to.deep.equal([
        [1, 3],
        [2, 3],
        [3, 3],
      ]);
      ckpt.dispose();
    });

    it('grows to its end and never beyond, at the default pace', () => {
      const buffer = Buffer.alloc(6 * 2 ** 20 + 5, 1);
      const [there, back] = [collector(), collector()];
      const ckpt = checkpointSync({ regions: buffer, layout, onProgress: there.onProgress });
      const result = restoreSync(ckpt, { writer, onProgress: back.onProgress });
      for (const { events } of [there, back]) {
        const done = events.map(({ doneBytes }) => doneBytes);
        expect(done).to.deep.equal([...new Set(done)].sort((a, b) => a - b));
        const { donePages, totalPages, doneBytes, totalBytes } = events.at(-1) as Progress;
        expect([donePages, doneBytes]).to.deep.equal([totalPages, totalBytes]);
        expect([totalPages, totalBytes]).to.deep.equal([ckpt.pages, buffer.length]);
      }
      expect(there.events.length).to.be.at.most(ckpt.stats.triggers);
      expect(back.events.length).to.be.at.most(result.triggers);
      ckpt.dispose();
    });

    it('comes in the turn of the call, and each event is a frozen plain object', async () => {
      const { events, onProgress } = collector();
      const pending = checkpoint({ regions: Buffer.alloc(3 * PAGE, 1), layout, onProgress });
      expect(events.length).to.be.greaterThan(0);
      for (const event of events) {
        expect(Object.isFrozen(event)).to.equal(true);
        expect(Object.getPrototypeOf(event)).to.equal(Object.prototype);
      }
      (await pending).dispose();
    });
  });

  it('comes in fewer, larger steps the more pages a trigger may move', () => {
    const mapping = Mapping.private(64 * PAGE);
    fill(mapping.view, 1);
    const steps = [1, 4, 64].map((pagesPerTrigger) => {
      const { events, onProgress } = collector();
      checkpointSync({ regions: mapping.view, pagesPerTrigger, onProgress }).dispose();
      return events.length;
    });
    expect(steps).to.deep.equal([64, 16, 1]);
  });

  it('comes by an emitter as the same events', () => {
    const { events, onProgress } = collector();
    const emitter = new EventEmitter();
    const emitted: Progress[] = [];
    emitter.on('progress', (event: Progress) => emitted.push(event));
    checkpointSync({ regions: Buffer.alloc(5 * PAGE, 1), pagesPerTrigger: 1, onProgress, emitter }).dispose();
    expect(emitted.length).to.be.at.least(5);
    expect(emitted.every((event, index) => event === events[index])).to.equal(true);
  });

  it('comes by an async iterator', async () => {
    const emitter = new EventEmitter();
    const iterator = on(emitter, 'progress');
    const ckpt = await checkpoint({ regions: Buffer.alloc(5 * PAGE, 1), pagesPerTrigger: 1, emitter });
    const seen: number[] = [];
    for await (const [event] of iterator) {
      seen.push((event as Progress).donePages);
      if ((event as Progress).donePages === (event as Progress).totalPages) break;
    }
    expect(seen).to.deep.equal(Array.from({ length: ckpt.pages }, (_, index) => index + 1));
    ckpt.dispose();
  });
});
