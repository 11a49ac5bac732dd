// progress.ts: tells listeners how far an operation is, and stops it when its signal says so.

import { EventEmitter } from 'node:events';

import { CheckpointError, typeError } from './errors';
import type { NativeProgress } from './native';

/** The piece just moved. Pages and bytes count what is moved: pages never touched are not. */
export interface Progress {
  readonly phase: 'checkpoint' | 'restore';
  /** The last page moved, counted from 0 in the order they are moved. */
  readonly page: number;
  /** Where the last piece moved begins. */
  readonly address: number;
  readonly donePages: number;
  readonly totalPages: number;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** How to follow an operation and how to stop it. */
export interface ProgressOptions {
  /** Called after each trigger, while the bytes move: page by page with `pagesPerTrigger: 1`. What it throws aborts the operation. */
  onProgress?: ((event: Progress) => void) | undefined;
  /** Emits 'progress' with the same events. For an async iterator: `events.on(emitter, 'progress')`. */
  emitter?: EventEmitter | undefined;
  /** Read before the first trigger and after each event. */
  signal?: AbortSignal | undefined;
}

/** An async callback would be told of bytes that have moved on by the time it runs, and what it rejects with would abort nothing. */
function refuseThenable(result: unknown): void {
  if (typeof result !== 'object' || result === null || !('then' in result)) return;
  if (result instanceof Promise) result.catch(() => undefined);
  throw typeError('the "onProgress" option', 'a function that is not async');
}

/** One operation's listeners. `report` is for the addon: undefined if nobody listens, so that nothing is made for nobody. */
export class Listeners {
  readonly report: NativeProgress | undefined;
  /** What stopped the operation, once something has. */
  #stopped: { by: string; cause: unknown } | undefined;

  constructor(
    readonly phase: Progress['phase'],
    private readonly options: ProgressOptions,
  ) {
    const { onProgress, emitter, signal } = options;
    if (signal?.aborted) throw this.#aborted('its signal before it began', signal.reason);
    const heard = onProgress !== undefined || (emitter !== undefined && emitter.listenerCount('progress') > 0);
    this.report = heard ? this.#report.bind(this) : undefined;
  }

  /** The error to throw if a listener or the signal stopped the operation. */
  get aborted(): CheckpointError | undefined {
    return this.#stopped && this.#aborted(this.#stopped.by, this.#stopped.cause);
  }

  #aborted(by: string, cause: unknown): CheckpointError {
    return new CheckpointError('ERR_CKPT_ABORTED', `The ${this.phase} was aborted by ${by}`, { cause });
  }

  #report(page: number, address: number, donePages: number, totalPages: number, doneBytes: number, totalBytes: number): void {
    const { onProgress, emitter, signal } = this.options;
    try {
      const event = Object.freeze({ phase: this.phase, page, address, donePages, totalPages, doneBytes, totalBytes });
      refuseThenable(onProgress?.(event));
      emitter?.emit('progress', event);
    } catch (cause) {
      this.#stopped = { by: 'an exception of a progress listener', cause };
      throw cause;
    }
    if (!signal?.aborted) return;
    this.#stopped = { by: 'its signal', cause: signal.reason };
    throw signal.reason;
  }
}
