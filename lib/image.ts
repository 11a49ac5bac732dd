// image.ts: class Checkpoint, what a caller holds of an image: its figures, and its end.

import { inspect } from 'node:util';

import { CheckpointError, fromNative, typeError } from './errors';
import { native } from './native';
import type { NativeHandle, NativeInfo } from './native';
import type { Layout } from './options';
import type { Tracked } from './regions';

/** What making a checkpoint cost. */
export interface CheckpointStats {
  /** Bytes in the page store: pages never touched are not stored. */
  readonly storedBytes: number;
  /** Contiguous ranges that were moved. */
  readonly runs: number;
  readonly triggers: number;
  /** Pieces that had to be faulted in first. */
  readonly retries: number;
  readonly durationNs: number;
}

/** What restore() needs of a checkpoint. */
interface Parts {
  readonly handle: NativeHandle;
  readonly tracked: readonly Tracked[];
  readonly layout: Layout;
}

/** For checkpoint(). */
export let makeCheckpoint: (handle: NativeHandle, layout: Layout, tracked: readonly Tracked[]) => Checkpoint;

/** For restore(). Throws for what is not a checkpoint, or not any more. */
export let openCheckpoint: (value: unknown) => Parts;

const SECRET = Symbol('made by checkpoint()');

/** Only enqueues: page stores go back to the pool outside of the garbage collector. */
const forgotten = new FinalizationRegistry<NativeHandle>((handle) => native.discard(handle));

/**
 * A checkpoint: the bytes of its regions as they were, restorable any number of times. It keeps the regions alive, and holds kernel memory
 * until it is disposed of or garbage-collected.
 */
export class Checkpoint implements Disposable {
  readonly #handle: NativeHandle;
  readonly #layout: Layout;
  /** Given up with the image, so that the regions can be collected. */
  #tracked: readonly Tracked[] | undefined;
  /** The last that was heard of the image: what does not change is taken from here, also after its end. */
  #known: NativeInfo | undefined;

  /** Only checkpoint() makes them. */
  private constructor(secret: symbol, handle: NativeHandle, layout: Layout, tracked: readonly Tracked[]) {
    if (secret !== SECRET) throw new TypeError('A Checkpoint is made by checkpoint()');
    this.#handle = handle;
    this.#layout = layout;
    this.#tracked = tracked;
    forgotten.register(this, handle, this);
  }

  static {
    makeCheckpoint = (handle, layout, tracked) => new Checkpoint(SECRET, handle, layout, tracked);

    openCheckpoint = (value) => {
      if (typeof value !== 'object' || value === null || !(#handle in value)) throw typeError('the first argument', 'a Checkpoint');
      if (value.#tracked === undefined) throw new CheckpointError('ERR_CKPT_DISPOSED', `Checkpoint ${value.id} was disposed of`);
      return { handle: value.#handle, tracked: value.#tracked, layout: value.#layout };
    };
  }

  /** 1, 2, ...; never repeats in this process. */
  get id(): number {
    return this.#handle.generation;
  }

  /** Bytes of the regions. */
  get bytes(): number {
    return this.#figures().bytes;
  }

  /** Pages stored. */
  get pages(): number {
    return this.#figures().pages;
  }

  /** Mappings of the process that the regions touch. */
  get mappings(): number {
    return this.#figures().mappings;
  }

  get layout(): Layout {
    return this.#layout;
  }

  get stats(): CheckpointStats {
    const { stored, runs, triggers, retries, captureNs } = this.#figures();
    return { storedBytes: stored, runs, triggers, retries, durationNs: captureNs };
  }

  /** How often it was restored, whole. */
  get restores(): number {
    return this.#now().restores;
  }

  /** A restore of it broke off: the regions are half restored, until a restore of it succeeds. */
  get poisoned(): boolean {
    return this.#now().poisoned;
  }

  get disposed(): boolean {
    return !native.alive(this.#handle);
  }

  /** Gives the bytes back. Nothing happens if that was done before. */
  dispose(): void {
    if (this.disposed) return;
    this.#now();
    try {
      native.dispose(this.#handle);
    } catch (error) {
      throw fromNative(error);
    }
    forgotten.unregister(this);
    this.#tracked = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    const { bytes, pages, mappings, restores, poisoned } = this.#now();
    const state = this.disposed ? ', disposed' : poisoned ? ', poisoned' : '';
    return `Checkpoint ${this.id}: ${bytes} bytes, ${pages} pages of ${mappings} mappings, ${this.#layout} layout, ${restores} restores${state}`;
  }

  [inspect.custom](): string {
    return `<${this.toString()}>`;
  }

  /** What never changes. */
  #figures(): NativeInfo {
    return this.#known ?? this.#now();
  }

  /** What may change, as it is now or was at the end. */
  #now(): NativeInfo {
    if (this.#known !== undefined && this.disposed) return this.#known;
    try {
      return (this.#known = native.info(this.#handle));
    } catch (error) {
      throw fromNative(error);
    }
  }
}
