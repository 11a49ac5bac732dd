// 30-bytes: byte exactness. Random regions over random pages in random states, before and after; a model made of plain copies decides.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import fc from 'fast-check';
import { checkpointSync, restoreSync, type CheckpointOptions } from 'ebpf-ckpt';
import { counts } from './counts';
import { copy, expectSame, fill, ruin } from './support/bytes';
import { freeMappings, Mapping, memtool, PAGE, pageState } from './support/memory';
import { eachWay, ways, type Way } from './support/ways';

const PAGES = 24;
const BYTES = PAGES * PAGE;

type Kind = 'private' | 'shared' | 'file';
/** What is done to a page: nothing, read it, write it, write it and give it back, have another process write it. */
type Touch = 'leave' | 'read' | 'write' | 'drop' | 'elsewhere';

interface Case {
  kind: Kind;
  before: Touch[];
  after: Touch[];
  regions: { from: number; bytes: number }[];
  way: Way;
  pagesPerTrigger: number | undefined;
}

const touch = fc.constantFrom<Touch>('leave', 'read', 'write', 'drop', 'elsewhere');
const touches = fc.array(touch, { minLength: PAGES, maxLength: PAGES });
/** Edges matter more than the middle. */
const offset = fc.oneof(
  fc.nat(BYTES - 1),
  fc.nat(PAGES - 1).map((page) => page * PAGE),
  fc.nat(PAGES - 2).map((page) => page * PAGE + PAGE - 1),
);
const region = fc
  .tuple(
    offset,
    fc.oneof(
      fc.integer({ min: 1, max: 64 }),
      fc.integer({ min: 1, max: BYTES }),
      fc.nat(PAGES).map((n) => n * PAGE),
    ),
  )
  .map(([from, bytes]) => ({ from, bytes: Math.min(bytes, BYTES - from) }));

const anyCase: fc.Arbitrary<Case> = fc.record({
  kind: fc.constantFrom<Kind>('private', 'shared', 'file'),
  before: touches,
  after: touches,
  regions: fc.array(region, { minLength: 1, maxLength: 6 }),
  way: fc.constantFrom(...ways),
  pagesPerTrigger: fc.constantFrom(undefined, 1, 2, 7, 256),
});

/** A mapping and, in plain memory, the bytes it must have. Reading the mapping to learn them would touch its pages. */
class Modelled {
  readonly model: Uint8Array;
  readonly mapping: Mapping;
  readonly #kind: Kind;
  readonly #behind: Uint8Array;

  constructor(kind: Kind, file: string, content: Uint8Array) {
    this.#kind = kind;
    this.#behind = kind === 'file' ? content : new Uint8Array(BYTES);
    this.mapping = kind === 'file' ? Mapping.file(file, BYTES) : Mapping[kind](BYTES);
    this.model = copy(this.#behind);
  }

  touch(page: number, how: Touch, seed: number): void {
    const from = page * PAGE;
    const [view, model] = [this.mapping.at(from, PAGE), this.model.subarray(from, from + PAGE)];
    if (how === 'read') expect(view[17]).to.equal(model[17]);
    if (how === 'write' || how === 'drop') fill(view, seed + page);
    if (how === 'write' || (how === 'drop' && this.#kind === 'shared')) fill(model, seed + page);
    if (how === 'drop') this.mapping.drop(from, PAGE);
    if (how === 'drop' && this.#kind !== 'shared') model.set(this.#behind.subarray(from, from + PAGE));
    if (how === 'elsewhere') this.#writeElsewhere(from, model, (seed + page) & 255);
  }

  /** Another process sees a private page of its own, and the same shared one. */
  #writeElsewhere(from: number, model: Uint8Array, value: number): void {
    if (this.#kind !== 'shared') return;
    memtool.fillElsewhere(this.mapping.address + from, PAGE, value);
    model.fill(value);
  }
}

describe('bytes', () => {
  const content = fill(new Uint8Array(BYTES), 99);
  let folder: string;
  let file: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'ebpf-ckpt-test-'));
    file = join(folder, 'behind');
    writeFileSync(file, content);
  });
  after(() => rmSync(folder, { recursive: true }));
  afterEach(freeMappings);

  function expectExact({ kind, before, after, regions, way, pagesPerTrigger }: Case): void {
    const modelled = new Modelled(kind, file, content);
    const { mapping, model } = modelled;
    before.forEach((how, page) => modelled.touch(page, how, 1000));
    const atCapture = copy(model);
    const options: CheckpointOptions = { regions: regions.map(({ from, bytes }) => mapping.at(from, bytes)), layout: way.layout };
    const pace = way.layout === 'fast' && pagesPerTrigger !== undefined ? { pagesPerTrigger } : {};
    const ckpt = checkpointSync({ ...options, ...pace });
    after.forEach((how, page) => modelled.touch(page, how, 2000));
    for (const { from, bytes } of regions) model.set(atCapture.subarray(from, from + bytes), from);
    restoreSync(ckpt, { writer: way.writer, ...pace });
    expectSame(mapping.view, model, `${kind} memory`);
    ckpt.dispose();
    freeMappings();
  }

  it('are exact for random regions, page states and ways', () => {
    fc.assert(fc.property(anyCase, expectExact), { numRuns: counts.properties });
  });

  eachWay(({ layout, writer }) => {
    for (const [from, bytes] of [
      [1, 1],
      [4095, 2],
      [4096, 4096],
      [4095, 4098],
      [1, 8191],
      [100, 3 * PAGE],
    ] as const) {
      it(`around ${bytes} bytes at offset ${from} are never written`, () => {
        const mapping = Mapping.private(8 * PAGE);
        const expected = copy(fill(mapping.view, 1));
        const ckpt = checkpointSync({ regions: mapping.at(from, bytes), layout });
        ruin(mapping.view);
        ruin(expected.subarray(0, from));
        ruin(expected.subarray(from + bytes));
        restoreSync(ckpt, { writer });
        expectSame(mapping.view, expected);
        ckpt.dispose();
      });
    }

    it('never touched cost nothing and come back as zeros', () => {
      const mapping = Mapping.private(64 * PAGE);
      const ckpt = checkpointSync({ regions: mapping.view, layout });
      expect([ckpt.bytes, ckpt.pages, ckpt.stats.storedBytes]).to.deep.equal([64 * PAGE, 0, 0]);
      expect(pageState(mapping.address)).to.equal('absent');
      mapping.view.fill(1);
      restoreSync(ckpt, { writer });
      expectSame(mapping.view, new Uint8Array(64 * PAGE));
      ckpt.dispose();
    });

    it('between the few touched ones of a vast region cost nothing', () => {
      const mapping = Mapping.private(2 ** 32);
      const places = [0, 123 * PAGE, 2 ** 31 - 5, 2 ** 32 - 1];
      for (const place of places) mapping.view[place] = 77;
      const ckpt = checkpointSync({ regions: mapping.view, layout });
      expect(ckpt.bytes).to.equal(2 ** 32);
      expect(ckpt.pages).to.equal(places.length);
      for (const place of places) mapping.view[place] = 1;
      mapping.view[2 ** 30] = 1;
      restoreSync(ckpt, { writer });
      expect(places.map((place) => mapping.view[place])).to.deep.equal([77, 77, 77, 77]);
      expect(mapping.view[2 ** 30]).to.equal(0);
      ckpt.dispose();
    });

    if (layout === 'fast') {
      it(`of ${counts.largeMiB} MiB come back, from as many segments as that takes`, () => {
        const mapping = Mapping.private(counts.largeMiB << 20);
        const words = new Float64Array(mapping.view.buffer);
        const step = PAGE / 8;
        for (let i = 0; i < words.length; i += step) words[i + ((i / step) % step)] = i + 1;
        const ckpt = checkpointSync({ regions: mapping.view, layout });
        expect(ckpt.pages).to.equal(mapping.bytes / PAGE);
        for (let i = 0; i < words.length; i += step) words[i + ((i / step) % step)] = -1;
        restoreSync(ckpt, { writer });
        for (let i = 0; i < words.length; i += step) {
          if (words[i + ((i / step) % step)] !== i + 1) expect.fail(`page ${i / step} is not what it was`);
        }
        ckpt.dispose();
      });
    }

    it('of many mappings in one region come back, whatever lies between them', () => {
      const mapping = Mapping.private(9 * PAGE);
      const expected = copy(fill(mapping.view, 4));
      for (let page = 1; page < 9; page += 2) mapping.protect(1, page * PAGE, PAGE);
      const ckpt = checkpointSync({ regions: mapping.view, layout });
      expect(ckpt.mappings).to.equal(9);
      mapping.protect(3);
      ruin(mapping.view);
      restoreSync(ckpt, { writer });
      expectSame(mapping.view, expected);
      ckpt.dispose();
    });

    it('come back from pieces of all sizes: 1 byte to 5 MiB', () => {
      for (const bytes of [1, 4095, 4097, 65_536, 1_048_575, 1_048_577, 5 * 2 ** 20 + 3]) {
        const buffer = Buffer.allocUnsafeSlow(bytes + 3).subarray(3);
        const expected = copy(fill(buffer, bytes));
        const ckpt = checkpointSync({ regions: buffer, layout });
        ruin(buffer);
        restoreSync(ckpt, { writer });
        expectSame(buffer, expected, `${bytes} bytes`);
        ckpt.dispose();
      }
    });
  });
});
