// native.ts: what the addon exports, typed; the only file that loads it.

import bindings from 'bindings';

import { CheckpointError, fromNative } from './errors';

/** Arguments of a progress call, in this order, as plain numbers: objects are made by progress.ts, once. */
export type NativeProgress = (
  page: number,
  address: number,
  donePages: number,
  totalPages: number,
  doneBytes: number,
  totalBytes: number,
) => void;

/** A checkpoint as the addon names it. The generation is its id. */
export interface NativeHandle {
  readonly index: number;
  readonly generation: number;
}

export interface NativeInfo {
  id: number;
  layout: 'fast' | 'seed';
  bytes: number;
  pages: number;
  stored: number;
  mappings: number;
  runs: number;
  poisoned: boolean;
  restores: number;
  captureNs: number;
  triggers: number;
  retries: number;
}

export interface NativeRestoreInfo {
  writer: 'kernel' | 'user';
  bytes: number;
  pages: number;
  restoreNs: number;
  triggers: number;
  retries: number;
}

export interface NativeStats {
  checkpoints: number;
  operations: number;
  segments: number;
  attached: boolean;
  liveBytes: number;
  pooledBytes: number;
  outerMapUpdates: number;
  triggers: number;
}

export interface NativeSettings {
  poolBytes: number;
  maxBytes: number;
  detachAfterMs: number;
  shrinkAfterMs: number;
}

/** See native/bpf/probe.h for the meaning of each field. */
export interface NativeSupport {
  release: string;
  machine: string;
  lockdown: 'none' | 'integrity' | 'confidentiality' | 'unknown';
  tracefs: string;
  tracepoints: boolean;
  seccomp: number;
  features: {
    btf: boolean;
    bpf: boolean;
    kernelWriter: boolean;
    fetchAndAdd: boolean;
    walk: 'none' | 'iterator' | 'list';
    pageScan: boolean;
    mappingQuery: boolean;
    populate: boolean;
    bpfErrno: number;
    writerErrno: number;
  };
  capabilities: { name: string; effective: boolean; neededFor: string }[];
  problems: { code: string; message: string; fix: string; fatal: boolean }[];
}

/**
 * Errors thrown by the addon are plain Errors with `code` (ERR_CKPT_...), and `address` (a number) where there is one; errors.ts turns them
 * into CheckpointError. An exception thrown by a progress callback comes out unchanged.
 */
export interface Native {
  capture(regions: Uint8Array[], layout: 'fast' | 'seed', pagesPerTrigger: number, onProgress: NativeProgress | undefined): NativeHandle;
  restore(
    handle: NativeHandle,
    regions: Uint8Array[],
    writer: 'auto' | 'kernel' | 'user',
    pagesPerTrigger: number,
    onProgress: NativeProgress | undefined,
  ): NativeRestoreInfo;
  dispose(handle: NativeHandle): void;
  /** For finalisers: only enqueues. */
  discard(handle: NativeHandle): void;
  info(handle: NativeHandle): NativeInfo;
  alive(handle: NativeHandle): boolean;
  settings(): NativeSettings;
  configure(settings: NativeSettings): void;
  trim(): Promise<void>;
  stats(): NativeStats;
  support(): NativeSupport;
}

const root = bindings.getRoot(__filename);

/** A build of this checkout goes before the prebuild that came with the package. */
const places = [
  ['module_root', 'build', 'Release', 'bindings'],
  ['module_root', 'build', 'Debug', 'bindings'],
  ['module_root', 'prebuilds', `${process.platform}-${process.arch}`, 'ebpf-ckpt.node'],
];

function load(): Native {
  try {
    return bindings({ bindings: 'ebpf_ckpt', module_root: root, try: places }) as Native;
  } catch (error) {
    const ours = fromNative(error);
    if (ours instanceof CheckpointError) throw ours;
    const target = `${process.platform}-${process.arch}, Node ${process.version}`;
    throw new CheckpointError('ERR_CKPT_NO_ADDON', `No build of the ebpf-ckpt addon fits (${target}). Run \`npm run build\` in ${root}`, {
      cause: error,
    });
  }
}

export const native = load();
