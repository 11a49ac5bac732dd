// checkpoint.ts: checkpoint() and checkpointSync(): regions into page stores.

import { fromNative } from './errors';
import { makeCheckpoint } from './image';
import type { Checkpoint } from './image';
import { native } from './native';
import { checkpointOptions } from './options';
import type { CheckpointOptions } from './options';
import { Listeners } from './progress';
import { firstViews, labelOf, track } from './regions';

/**
 * Checkpoints the bytes of the regions. It is whole or absent: if this throws, nothing of it remains.
 *
 * @throws {TypeError | RangeError} before anything happens, for a mistake in the options
 * @throws {CheckpointError} for everything else
 */
export function checkpointSync(options: CheckpointOptions): Checkpoint {
  const { layout, pagesPerTrigger } = checkpointOptions(options);
  const tracked = track(options.regions);
  const listeners = new Listeners('checkpoint', options);
  const views = firstViews(tracked);

  try {
    return makeCheckpoint(native.capture(views, layout, pagesPerTrigger, listeners.report), layout, tracked);
  } catch (error) {
    throw listeners.aborted ?? fromNative(error, (index) => labelOf(tracked, index));
  }
}

/**
 * Like {@link checkpointSync}: all bytes move before it returns, at one point in time for everything that this thread owns; the promise only
 * settles later.
 */
// `async` is here for what is thrown: it becomes a rejection.
export async function checkpoint(options: CheckpointOptions): Promise<Checkpoint> {
  return checkpointSync(options);
}
