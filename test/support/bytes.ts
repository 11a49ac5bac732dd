// bytes.ts: bytes that tell positions and moments apart, and a comparison that says where they differ.

import { expect } from 'chai';

/** Fills with bytes that depend on the seed and on the position, and repeat only after megabytes. None is the ruined form of itself. */
export function fill(view: Uint8Array, seed: number): Uint8Array {
  let x = (seed + 1) * 2654435761;
  for (let i = 0; i < view.length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) | 0;
    view[i] = x >>> 24;
  }
  return view;
}

/** Changes every byte. */
export function ruin(view: Uint8Array): void {
  for (let i = 0; i < view.length; i++) view[i] = ~(view[i] as number);
}

/** A plain copy: the model that decides. */
export const copy = (view: Uint8Array): Uint8Array => Uint8Array.from(view);

/** Fails naming the first byte that differs. */
export function expectSame(actual: Uint8Array, expected: Uint8Array, what = 'memory'): void {
  expect(actual.length, `length of ${what}`).to.equal(expected.length);
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  expect.fail(`${what}: byte ${at} of ${actual.length} is ${actual[at]}, expected ${expected[at]}`);
}

/** The bytes of any region. */
export function bytesOf(region: ArrayBufferView | ArrayBufferLike | WebAssembly.Memory): Uint8Array {
  if (region instanceof WebAssembly.Memory) return new Uint8Array(region.buffer);
  if (ArrayBuffer.isView(region)) return new Uint8Array(region.buffer, region.byteOffset, region.byteLength);
  return new Uint8Array(region);
}
