// index.ts: the public face of the package.

export { checkpoint, checkpointSync } from './checkpoint';
export { CheckpointError } from './errors';
export type { CheckpointErrorCode } from './errors';
export type { Checkpoint, CheckpointStats } from './image';
export { configure, settings, stats, trim } from './memory';
export type { Settings, Stats } from './memory';
export type { CheckpointOptions, RestoreOptions } from './options';
export type { Progress } from './progress';
export type { Region } from './regions';
export { restore, restoreSync } from './restore';
export type { RestoreResult } from './restore';
export { support } from './support';
export type { Support } from './support';
