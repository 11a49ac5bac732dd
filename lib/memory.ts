// memory.ts: configure(), settings(), stats() and trim(): the memory that page stores take in this process.

import { fromNative } from './errors';
import { native } from './native';
import { checkInteger, optionsObject } from './options';

/** In force for the whole process, all its threads. */
export interface Settings {
  /** Bytes of disposed checkpoints that are kept for the next ones, at most. */
  readonly poolBytes: number;
  /** Ceiling of the bytes that live checkpoints hold; Infinity: none. */
  readonly maxBytes: number;
  /** Idle time after which the BPF programs are detached. */
  readonly detachAfterMs: number;
  /** Idle time after which what the pool keeps is freed. */
  readonly shrinkAfterMs: number;
}

/** Of the whole process, all its threads. */
export interface Stats {
  /** Alive. */
  readonly checkpoints: number;
  /** Checkpoints and restores under way. */
  readonly operations: number;
  /** Inner maps in data_map. */
  readonly segments: number;
  /** The BPF programs are attached. */
  readonly attached: boolean;
  /** Held by live checkpoints. */
  readonly liveBytes: number;
  /** Kept for the next ones. */
  readonly pooledBytes: number;
  /** Updates and deletions of data_map entries so far. */
  readonly outerMapUpdates: number;
  /** So far, those of operations that were aborted or failed too. */
  readonly triggers: number;
}

const MAX_MS = 2 ** 32 - 1;

/** The addon says 0 where users say Infinity. */
function checkCeiling(value: unknown): number {
  if (value === Infinity) return 0;
  checkInteger('maxBytes', value, 1, Number.MAX_SAFE_INTEGER);
  return value;
}

function checked(name: string, value: unknown, most: number): number {
  checkInteger(name, value, 0, most);
  return value;
}

/** The settings in force. */
export function settings(): Settings {
  const { maxBytes, ...rest } = native.settings();
  return { ...rest, maxBytes: maxBytes === 0 ? Infinity : maxBytes };
}

/** Changes the settings that are given, and returns all of them. */
export function configure(changes: { [Name in keyof Settings]?: Settings[Name] | undefined }): Settings {
  const before = settings();
  const { poolBytes = before.poolBytes, maxBytes = before.maxBytes, ...times } = optionsObject(changes);
  const { detachAfterMs = before.detachAfterMs, shrinkAfterMs = before.shrinkAfterMs } = times;
  native.configure({
    poolBytes: checked('poolBytes', poolBytes, Number.MAX_SAFE_INTEGER),
    maxBytes: checkCeiling(maxBytes),
    detachAfterMs: checked('detachAfterMs', detachAfterMs, MAX_MS),
    shrinkAfterMs: checked('shrinkAfterMs', shrinkAfterMs, MAX_MS),
  });
  return settings();
}

/** Figures of this process. */
export function stats(): Stats {
  return native.stats();
}

/** Frees what the pool keeps and detaches the BPF programs, unless something is under way. Takes tenths of a second. */
export async function trim(): Promise<void> {
  try {
    await native.trim();
  } catch (error) {
    throw fromNative(error);
  }
}
