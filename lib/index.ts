// index.ts: the public face of the package.

export { checkpoint, checkpointSync } from './checkpoint';
export { CheckpointError } from './errors';
export type { CheckpointErrorCode } from './errors';
export { Checkpoint } from './image';
export type { CheckpointStats } from './image';
export { configure, settings, stats, trim } from './memory';
export type { Settings, Stats } from './memory';
export type { CheckpointOptions, Layout, RestoreOptions, Writer } from './options';
export type { Progress, ProgressOptions } from './progress';
export type { Region, WasmMemory } from './regions';
export { restore, restoreSync } from './restore';
export type { RestoreResult } from './restore';
export { support } from './support';
export type { Support } from './support';
