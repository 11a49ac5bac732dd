// regions.ts: what can be checkpointed, and where its bytes are now.

import { types } from 'node:util';

import { CheckpointError, typeError } from './errors';

/** A WebAssembly.Memory, by shape: its type belongs to libraries (DOM) that not every program includes. */
export interface WasmMemory {
  readonly buffer: ArrayBufferLike;
  grow(delta: number): number;
}

/**
 * Memory to checkpoint: a Buffer (pooled ones too), any typed array, a DataView, an ArrayBuffer (resizable ones too), a SharedArrayBuffer
 * (growable ones too) or a WebAssembly.Memory. A view stands for its own bytes, not for all of its buffer.
 */
export type Region = NodeJS.ArrayBufferView | ArrayBufferLike | WasmMemory;

/** A region, and how many bytes it had at its checkpoint. */
export interface Tracked {
  readonly region: Region;
  bytes: number;
}

const EXPECTED = 'a Buffer, typed array, DataView, ArrayBuffer, SharedArrayBuffer or WebAssembly.Memory';

/** Undefined under --jitless. */
const { WebAssembly } = globalThis as { WebAssembly?: { Memory: { prototype: WasmMemory } } };
const memoryBuffer = WebAssembly && Object.getOwnPropertyDescriptor(WebAssembly.Memory.prototype, 'buffer');

/** The getter knows its own, of whatever realm, and throws for anything else. */
function bufferOfMemory(memory: unknown): ArrayBufferLike | undefined {
  return memoryBuffer?.get?.call(memory) as ArrayBufferLike | undefined;
}

/** The tag first: an exception costs microseconds, and options are asked too whether they are a region. */
function isMemory(value: unknown): value is WasmMemory {
  if (typeof value !== 'object' || value === null || !(Symbol.toStringTag in value)) return false;
  try {
    return bufferOfMemory(value) !== undefined;
  } catch {
    return false;
  }
}

/** True for anything that can be checkpointed. */
export function isRegion(value: unknown): value is Region {
  return ArrayBuffer.isView(value) || types.isAnyArrayBuffer(value) || isMemory(value);
}

/** Validates the "regions" option. */
export function track(regions: unknown): Tracked[] {
  if (isRegion(regions)) return [{ region: regions, bytes: 0 }];
  if (!Array.isArray(regions)) throw typeError('the "regions" option', `${EXPECTED}, or an array of these`);
  if (regions.length === 0) throw typeError('the "regions" option', 'at least one region');
  return Array.from<unknown, Tracked>(regions, (region, index) => {
    if (!isRegion(region)) throw typeError(`"regions[${index}]"`, EXPECTED);
    return { region, bytes: 0 };
  });
}

/** `regions[2] (Uint8Array)`. */
export function labelOf(tracked: readonly Tracked[], index: number): string {
  const region = tracked[index]?.region;
  const kind = Buffer.isBuffer(region) ? 'Buffer' : Object.prototype.toString.call(region).slice('[object '.length, -1);
  return `regions[${index}] (${kind})`;
}

function bufferOf(region: Region): ArrayBufferLike {
  if (ArrayBuffer.isView(region)) return region.buffer;
  return types.isAnyArrayBuffer(region) ? region : (bufferOfMemory(region) as ArrayBufferLike);
}

/**
 * The bytes as they are now, as a view of fixed length. Asking a typed array for its buffer also moves small ones out of V8's heap, where the
 * garbage collector would move them about.
 */
function viewOf(region: Region): Uint8Array {
  const buffer = bufferOf(region);
  return ArrayBuffer.isView(region)
    ? new Uint8Array(buffer, region.byteOffset, region.byteLength)
    : new Uint8Array(buffer, 0, buffer.byteLength);
}

function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    new Uint8Array(buffer);
    return false;
  } catch {
    return true;
  }
}

/** The bytes of one region, if all that it had at its checkpoint are still there. */
function current(tracked: readonly Tracked[], index: number, { region, bytes }: Tracked): Uint8Array {
  let now = 0;
  try {
    const view = viewOf(region);
    now = view.byteLength;
    if (now >= bytes) return view;
  } catch (cause) {
    // A detached buffer has no view, and neither has a DataView whose buffer shrank below it.
    if (!isDetached(bufferOf(region))) throw shrunk(labelOf(tracked, index), now, bytes, cause);
    throw new CheckpointError('ERR_CKPT_REGION_DETACHED', `The buffer of ${labelOf(tracked, index)} is detached`);
  }
  throw shrunk(labelOf(tracked, index), now, bytes);
}

function shrunk(label: string, now: number, bytes: number, cause?: unknown): CheckpointError {
  const message = `${label} has ${now} bytes, and had ${bytes} at its checkpoint`;
  return new CheckpointError('ERR_CKPT_REGION_SHRUNK', message, cause === undefined ? {} : { cause });
}

/** The regions at a checkpoint. From here on each must be at least as long as it is now. */
export function firstViews(tracked: readonly Tracked[]): Uint8Array[] {
  return tracked.map((one, index) => {
    const view = current(tracked, index, one);
    one.bytes = view.byteLength;
    return view;
  });
}

/** The regions at a restore. */
export function views(tracked: readonly Tracked[]): Uint8Array[] {
  return tracked.map((one, index) => current(tracked, index, one));
}
