// restore.ts: restore() and restoreSync(): page stores back into the regions.

import { fromNative } from './errors';
import { openCheckpoint } from './image';
import type { Checkpoint } from './image';
import { native } from './native';
import { restoreOptions } from './options';
import type { RestoreOptions, Writer } from './options';
import { Listeners } from './progress';
import { labelOf, views } from './regions';

export interface RestoreResult {
  /** The writer that was used. */
  readonly writer: Writer;
  readonly bytes: number;
  readonly pages: number;
  readonly durationNs: number;
  readonly triggers: number;
  /** Pieces that had to be faulted in first. */
  readonly retries: number;
}

/**
 * Puts every byte of the regions back as it was at the checkpoint; bytes that a region has grown by since become zero. A region that was
 * detached, shrunk or moved is refused before anything changes. If this throws later than that, `ckpt.poisoned` is true until it is
 * restored whole.
 *
 * @throws {TypeError | RangeError} before anything happens, for a mistake in the arguments
 * @throws {CheckpointError} for everything else
 */
export function restoreSync(ckpt: Checkpoint, options: RestoreOptions = {}): RestoreResult {
  const { handle, tracked, layout } = openCheckpoint(ckpt);
  const { writer, pagesPerTrigger } = restoreOptions(options, layout);
  const listeners = new Listeners('restore', options);

  try {
    const done = native.restore(handle, views(tracked), writer, pagesPerTrigger, listeners.report);
    const { bytes, pages, restoreNs, triggers, retries } = done;
    return { writer: done.writer, bytes, pages, durationNs: restoreNs, triggers, retries };
  } catch (error) {
    throw listeners.aborted ?? fromNative(error, (index) => labelOf(tracked, index));
  }
}

/** Like {@link restoreSync}: all bytes are back before it returns; the promise only settles later. */
// `async` is here for what is thrown: it becomes a rejection.
export async function restore(ckpt: Checkpoint, options?: RestoreOptions): Promise<RestoreResult> {
  return restoreSync(ckpt, options);
}
