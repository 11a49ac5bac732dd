// 20-regions: every kind of region comes back in place; one that is detached, shrunk or elsewhere is refused by name; a grown one is zeroed.

import { expect } from 'chai';
import { checkpoint, checkpointSync, restore, restoreSync, type Region } from 'ebpf-ckpt';
import { bytesOf, copy, expectSame, fill, ruin } from './support/bytes';
import { memtool } from './support/memory';
import { refused } from './support/refusal';
import { eachWay } from './support/ways';

const WASM_PAGE = 65536;

const kinds: Record<string, () => Region> = {
  'a Buffer': () => Buffer.allocUnsafeSlow(10_000),
  'a pooled Buffer': () => Buffer.from('a few bytes in the pool'),
  'a Buffer of one byte': () => Buffer.alloc(1),
  'an Int8Array': () => new Int8Array(5000),
  'a Uint8Array': () => new Uint8Array(5000),
  'a Uint8ClampedArray': () => new Uint8ClampedArray(5000),
  'an Int16Array': () => new Int16Array(5000),
  'a Uint16Array': () => new Uint16Array(5000),
  'an Int32Array': () => new Int32Array(5000),
  'a Uint32Array': () => new Uint32Array(5000),
  'a Float32Array': () => new Float32Array(5000),
  'a Float64Array': () => new Float64Array(5000),
  'a BigInt64Array': () => new BigInt64Array(5000),
  'a BigUint64Array': () => new BigUint64Array(5000),
  'a typed array so small that V8 keeps it on its heap': () => new Uint8Array(8),
  'a typed array in the middle of its buffer': () => new Uint16Array(new ArrayBuffer(20_000), 4098, 3000),
  'a DataView': () => new DataView(new ArrayBuffer(9000), 11, 8000),
  'an ArrayBuffer': () => new ArrayBuffer(70_000),
  'a resizable ArrayBuffer': () => new ArrayBuffer(5000, { maxByteLength: 100_000 }),
  'a view that follows a resizable ArrayBuffer': () => new Uint8Array(new ArrayBuffer(5000, { maxByteLength: 100_000 }), 7),
  'a SharedArrayBuffer': () => new SharedArrayBuffer(70_000),
  'a growable SharedArrayBuffer': () => new SharedArrayBuffer(5000, { maxByteLength: 100_000 }),
  'a view of a SharedArrayBuffer': () => new Int32Array(new SharedArrayBuffer(40_000), 4, 9000),
  'a WebAssembly.Memory': () => new WebAssembly.Memory({ initial: 2, maximum: 10 }),
  'a shared WebAssembly.Memory': () => new WebAssembly.Memory({ initial: 2, maximum: 10, shared: true }),
};

describe('regions', () => {
  eachWay(({ layout, writer }) => {
    for (const [kind, make] of Object.entries(kinds)) {
      it(`brings back ${kind}`, () => {
        const region = make();
        const expected = copy(fill(bytesOf(region), 1));
        const ckpt = checkpointSync({ regions: region, layout });
        expect(ckpt.bytes).to.equal(expected.length);
        ruin(bytesOf(region));
        const result = restoreSync(ckpt, { writer });
        expectSame(bytesOf(region), expected);
        expect(result.bytes).to.equal(expected.length);
        ckpt.dispose();
      });
    }

    it('brings back all kinds at once', () => {
      const regions = Object.values(kinds).map((make) => make());
      const expected = regions.map((region, index) => copy(fill(bytesOf(region), index)));
      const ckpt = checkpointSync({ regions, layout });
      for (const region of regions) ruin(bytesOf(region));
      restoreSync(ckpt, { writer });
      regions.forEach((region, index) => expectSame(bytesOf(region), expected[index] as Uint8Array, `regions[${index}]`));
      ckpt.dispose();
    });

    it('takes the same region twice, and regions that overlap', () => {
      const buffer = Buffer.alloc(30_000);
      const expected = copy(fill(buffer, 3));
      const ckpt = checkpointSync({ regions: [buffer.subarray(100, 20_000), buffer, buffer, buffer.subarray(9000)], layout });
      ruin(buffer);
      restoreSync(ckpt, { writer });
      expectSame(buffer, expected);
      ckpt.dispose();
    });

    it('takes a region of no bytes', () => {
      const neighbour = Buffer.from([1, 2, 3]);
      const ckpt = checkpointSync({ regions: [neighbour.subarray(1, 1), new ArrayBuffer(0)], layout });
      neighbour.fill(9);
      expect(restoreSync(ckpt, { writer }).bytes).to.equal(0);
      expectSame(neighbour, Uint8Array.from([9, 9, 9]));
      ckpt.dispose();
    });

    for (const shared of [false, true]) {
      it(`zeroes what a ${shared ? 'shared ' : ''}WebAssembly.Memory has grown by since`, () => {
        const memory = new WebAssembly.Memory({ initial: 1, maximum: 4, shared });
        const expected = copy(fill(bytesOf(memory), 5));
        const ckpt = checkpointSync({ regions: memory, layout });
        memory.grow(2);
        bytesOf(memory).fill(0xee);
        restoreSync(ckpt, { writer });
        expectSame(bytesOf(memory).subarray(0, WASM_PAGE), expected);
        expectSame(bytesOf(memory).subarray(WASM_PAGE), new Uint8Array(2 * WASM_PAGE), 'the grown part');
        ckpt.dispose();
      });
    }

    it('zeroes what resizable and growable buffers, and a view that follows one, have grown by since', () => {
      const resizable = new ArrayBuffer(5000, { maxByteLength: 50_000 });
      const followed = new ArrayBuffer(3000, { maxByteLength: 50_000 });
      const growable = new SharedArrayBuffer(5000, { maxByteLength: 50_000 });
      const regions = [resizable, new Uint8Array(followed, 100), growable];
      const expected = regions.map((region) => copy(fill(bytesOf(region), 6)));
      const ckpt = checkpointSync({ regions, layout });
      resizable.resize(20_000);
      followed.resize(4000);
      growable.grow(50_000);
      for (const region of regions) bytesOf(region).fill(0xee);
      new Uint8Array(followed, 0, 100).fill(0xdd);
      restoreSync(ckpt, { writer });
      regions.forEach((region, index) => {
        const before = expected[index] as Uint8Array;
        expectSame(bytesOf(region).subarray(0, before.length), before, `regions[${index}]`);
        const grown = bytesOf(region).subarray(before.length);
        expectSame(grown, new Uint8Array(grown.length), `grown part of regions[${index}]`);
      });
      expectSame(new Uint8Array(followed, 0, 100), new Uint8Array(100).fill(0xdd), 'before the view');
      ckpt.dispose();
    });
  });

  it('keeps its regions alive and off the heap that V8 moves', () => {
    const small = new Uint8Array(16).fill(7);
    const ckpt = checkpointSync({ regions: small });
    const address = memtool.addressOf(small);
    gc?.();
    gc?.();
    expect(memtool.addressOf(small)).to.equal(address);
    small.fill(8);
    restoreSync(ckpt);
    expectSame(small, new Uint8Array(16).fill(7));
    ckpt.dispose();
  });

  it('the Promise forms do the same', async () => {
    const buffer = Buffer.alloc(100_000);
    const expected = copy(fill(buffer, 8));
    const ckpt = await checkpoint({ regions: [buffer] });
    ruin(buffer);
    const result = await restore(ckpt);
    expectSame(buffer, expected);
    expect(result.bytes).to.equal(100_000);
    ckpt.dispose();
  });

  it('the Promise forms move all bytes in the turn of the call', async () => {
    const buffer = Buffer.alloc(10_000, 1);
    const capture = checkpoint({ regions: buffer });
    buffer.fill(2);
    const ckpt = await capture;
    const back = restore(ckpt);
    expectSame(buffer, new Uint8Array(10_000).fill(1), 'memory before the promise settles');
    buffer.fill(3);
    await back;
    expectSame(buffer, new Uint8Array(10_000).fill(3), 'what was written since');
    ckpt.dispose();
  });

  it('tells what a checkpoint is', () => {
    const ckpt = checkpointSync({ regions: [Buffer.alloc(8192, 1), new Float64Array(10).fill(1)] });
    expect(ckpt.bytes).to.equal(8192 + 80);
    expect(ckpt.pages).to.be.within(3, 5);
    expect(ckpt.mappings).to.be.within(1, 2);
    expect(ckpt.stats.storedBytes).to.be.within(8192 + 80, ckpt.pages * 4096);
    expect(ckpt.stats.runs).to.be.within(1, 2);
    expect(ckpt.stats.triggers).to.be.greaterThan(0);
    expect(ckpt.stats.durationNs).to.be.greaterThan(0);
    expect(ckpt.layout).to.equal('fast');
    expect([ckpt.restores, ckpt.poisoned, ckpt.disposed]).to.deep.equal([0, false, false]);
    expect(String(ckpt)).to.match(/\d/).and.not.include('\n');
    ckpt.dispose();
  });
});

describe('regions that are no longer what they were', () => {
  const other = Buffer.alloc(50);

  /** Expects a refusal that names the second region and leaves the first as it is. */
  function expectRefused(code: string, kind: string, region: Region, change: () => void): void {
    fill(other, 1);
    const ckpt = checkpointSync({ regions: [other, region] });
    const later = copy(fill(other, 2));
    change();
    const { message } = refused(code, () => restoreSync(ckpt));
    expect(message).to.include(`regions[1] (${kind})`);
    expectSame(other, later, 'the other region');
    expect([ckpt.poisoned, ckpt.restores]).to.deep.equal([false, 0]);
    ckpt.dispose();
  }

  const detach = (buffer: ArrayBuffer): void => void structuredClone(buffer, { transfer: [buffer] });

  it('refuses a detached ArrayBuffer', () => {
    const buffer = new ArrayBuffer(100);
    expectRefused('ERR_CKPT_REGION_DETACHED', 'ArrayBuffer', buffer, () => detach(buffer));
  });

  it('refuses a view of a detached ArrayBuffer', () => {
    const view = new Float32Array(100);
    expectRefused('ERR_CKPT_REGION_DETACHED', 'Float32Array', view, () => detach(view.buffer));
  });

  it('refuses a DataView of a detached ArrayBuffer', () => {
    const view = new DataView(new ArrayBuffer(100));
    expectRefused('ERR_CKPT_REGION_DETACHED', 'DataView', view, () => detach(view.buffer));
  });

  it('refuses a shrunk ArrayBuffer', () => {
    const buffer = new ArrayBuffer(9000, { maxByteLength: 10_000 });
    expectRefused('ERR_CKPT_REGION_SHRUNK', 'ArrayBuffer', buffer, () => buffer.resize(8999));
  });

  it('refuses a view that a resize left out of bounds', () => {
    const buffer = new ArrayBuffer(9000, { maxByteLength: 10_000 });
    const view = new Uint8Array(buffer, 8000, 1000);
    fill(other, 1);
    const ckpt = checkpointSync({ regions: [other, view] });
    buffer.resize(8500);
    expect(() => restoreSync(ckpt))
      .to.throw()
      .with.property('code')
      .that.is.oneOf(['ERR_CKPT_REGION_SHRUNK', 'ERR_CKPT_REGION_DETACHED']);
    ckpt.dispose();
  });

  it('refuses a region that is elsewhere now', () => {
    // Nothing in this version of V8 moves: the view is made to say so.
    const view = new Uint8Array(5000);
    const elsewhere = new ArrayBuffer(5000);
    expectRefused('ERR_CKPT_REGION_MOVED', 'Uint8Array', view, () => Object.defineProperty(view, 'buffer', { get: () => elsewhere }));
  });

  it('takes a region again that is as it was', () => {
    const buffer = new ArrayBuffer(9000, { maxByteLength: 10_000 });
    const expected = copy(fill(bytesOf(buffer), 4));
    const ckpt = checkpointSync({ regions: buffer });
    buffer.resize(10);
    refused('ERR_CKPT_REGION_SHRUNK', () => restoreSync(ckpt));
    buffer.resize(9000);
    restoreSync(ckpt);
    expectSame(bytesOf(buffer), expected);
    ckpt.dispose();
  });
});
