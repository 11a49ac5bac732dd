// options.ts: what callers may pass, and its validation before anything happens.

import { CheckpointError, rangeError, typeError } from './errors';
import type { ProgressOptions } from './progress';
import { isRegion } from './regions';
import type { Region } from './regions';

export type Layout = 'fast' | 'seed';
export type Writer = 'kernel' | 'user';

export interface CheckpointOptions extends ProgressOptions {
  /** What to checkpoint. Overlaps are fine; bytes around a region are never touched. */
  regions: Region | readonly Region[];
  /** 'seed' keeps one hash element per page, as the first design did: slower, and the baseline of the benchmarks. Default: 'fast'. */
  layout?: Layout | undefined;
  /** 1 to 256; always 1 in the 'seed' layout. Default: as many as one trigger may move. */
  pagesPerTrigger?: number | undefined;
}

export interface RestoreOptions extends ProgressOptions {
  /** 1 to 256; always 1 in the 'seed' layout. Default: as many as one trigger may move. */
  pagesPerTrigger?: number | undefined;
  /** Who puts the bytes back. Default: 'auto', what support() says. */
  writer?: 'auto' | Writer | undefined;
}

/** The most pages that one trigger may be asked to move. */
const MAX_PAGES_PER_TRIGGER = 256;

function option(name: string): string {
  return `the "${name}" option`;
}

function checkObject(options: unknown): void {
  if (typeof options === 'object' && options !== null && !Array.isArray(options) && !isRegion(options)) return;
  throw typeError('the options', 'an object');
}

function checkProgress(options: ProgressOptions): void {
  const { onProgress, emitter, signal } = options as { [name in keyof ProgressOptions]: unknown };
  if (onProgress !== undefined && typeof onProgress !== 'function') throw typeError(option('onProgress'), 'a function');
  if (emitter !== undefined && !isEmitter(emitter)) throw typeError(option('emitter'), 'an EventEmitter');
  if (signal !== undefined && !isSignal(signal)) throw typeError(option('signal'), 'an AbortSignal');
}

function isEmitter(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return 'emit' in value && typeof value.emit === 'function' && 'listenerCount' in value && typeof value.listenerCount === 'function';
}

function isSignal(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'aborted' in value && typeof value.aborted === 'boolean';
}

/** 0, for the addon, if it is left to us. */
function pagesPerTrigger(value: unknown, layout: Layout): number {
  if (value === undefined) return 0;
  checkInteger('pagesPerTrigger', value, 1, MAX_PAGES_PER_TRIGGER);
  if (layout === 'seed' && value !== 1) throw rangeError(option('pagesPerTrigger'), "1 with the 'seed' layout", value);
  return value;
}

/** Throws unless `value` is an integer between the two. */
export function checkInteger(name: string, value: unknown, least: number, most: number): asserts value is number {
  if (typeof value !== 'number') throw typeError(option(name), 'a number');
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw rangeError(option(name), `an integer from ${least} to ${most}`, value);
}

/** The options of checkpoint(), but for its regions. */
export function checkpointOptions(options: CheckpointOptions | undefined): { layout: Layout; pagesPerTrigger: number } {
  if (options === undefined) throw notYet();
  checkObject(options);
  const { layout = 'fast' } = options as { layout?: unknown };
  if (layout !== 'fast' && layout !== 'seed') throw typeError(option('layout'), "'fast' or 'seed'");
  const pages = pagesPerTrigger(options.pagesPerTrigger, layout);
  checkProgress(options);
  if ((options as Partial<CheckpointOptions>).regions === undefined) throw notYet();
  return { layout, pagesPerTrigger: pages };
}

/** The options of restore(), for a checkpoint of the given layout. */
export function restoreOptions(options: RestoreOptions, layout: Layout): { writer: 'auto' | Writer; pagesPerTrigger: number } {
  checkObject(options);
  const { writer = 'auto' } = options as { writer?: unknown };
  if (writer !== 'auto' && writer !== 'kernel' && writer !== 'user') throw typeError(option('writer'), "'auto', 'kernel' or 'user'");
  const pages = pagesPerTrigger(options.pagesPerTrigger, layout);
  checkProgress(options);
  return { writer, pagesPerTrigger: pages };
}

/** An options object of any function, known to be one. */
export function optionsObject(options: unknown): Record<string, unknown> {
  checkObject(options);
  return options as Record<string, unknown>;
}

function notYet(): CheckpointError {
  return new CheckpointError(
    'ERR_CKPT_NOT_YET',
    'A checkpoint of the whole process is not possible yet: name its regions, checkpoint({ regions })',
  );
}
