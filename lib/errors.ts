// errors.ts: the one error class and its codes, and the wording of mistakes in arguments.

import { types } from 'node:util';

/** Why a checkpoint, a restore or anything else was refused or failed. Stable: programs may compare with it. */
export type CheckpointErrorCode =
  /** A capability is missing; the message names it. */
  | 'ERR_CKPT_CAPABILITY'
  /** This kernel lacks something that is needed. */
  | 'ERR_CKPT_KERNEL'
  /** The kernel has no BTF (/sys/kernel/btf/vmlinux). */
  | 'ERR_CKPT_NO_BTF'
  /** The kernel is locked down against what was asked for. */
  | 'ERR_CKPT_LOCKDOWN'
  /** The ids of the tracepoints cannot be read. */
  | 'ERR_CKPT_TRACEPOINT'
  /** `maxBytes`, a cgroup or the machine has no room for the bytes. */
  | 'ERR_CKPT_NO_ROOM'
  /** A region is elsewhere in memory than it was at its checkpoint. */
  | 'ERR_CKPT_REGION_MOVED'
  /** A region is shorter than it was at its checkpoint. */
  | 'ERR_CKPT_REGION_SHRUNK'
  /** The buffer of a region was detached: transferred, or a WebAssembly.Memory's that has grown. */
  | 'ERR_CKPT_REGION_DETACHED'
  /** Memory of a region is no longer mapped. */
  | 'ERR_CKPT_UNMAPPED'
  /** A page cannot be read; `address` says where. */
  | 'ERR_CKPT_UNREADABLE'
  /** A page cannot be written; `address` says where. */
  | 'ERR_CKPT_UNWRITABLE'
  /** No such checkpoint in this thread. */
  | 'ERR_CKPT_UNKNOWN'
  /** The checkpoint was disposed. */
  | 'ERR_CKPT_DISPOSED'
  /** The bytes are half restored. */
  | 'ERR_CKPT_POISONED'
  /** Stopped by its signal or by a progress callback or listener; `cause` says why. */
  | 'ERR_CKPT_ABORTED'
  /** Called from a progress callback of another checkpoint or restore. */
  | 'ERR_CKPT_REENTRANT'
  /** The tracepoint has as many programs as it can take, or too many operations are under way. */
  | 'ERR_CKPT_BUSY'
  /** Triggers do not move anything. */
  | 'ERR_CKPT_NO_PROGRESS'
  /** Another copy of the addon is in this process; the message names its file. */
  | 'ERR_CKPT_SECOND_COPY'
  /** The process was made by fork() without exec. */
  | 'ERR_CKPT_FORKED'
  /** A bug of ours, or an unexpected refusal of the kernel. */
  | 'ERR_CKPT_INTERNAL'
  /** This version cannot do that yet. */
  | 'ERR_CKPT_NOT_YET'
  /** No build of the addon, and no prebuild that fits; the message has the command that builds one. */
  | 'ERR_CKPT_NO_ADDON';

/** What everything here throws, but for mistakes in arguments: those are TypeErrors and RangeErrors. */
export class CheckpointError extends Error {
  readonly code: CheckpointErrorCode;
  /** The address that the error is about, if there is one. */
  declare readonly address?: number;

  static {
    Object.defineProperty(this.prototype, 'name', { value: 'CheckpointError', writable: true, configurable: true });
  }

  constructor(code: CheckpointErrorCode, message: string, options?: ErrorOptions & { address?: number | undefined }) {
    super(message, options);
    this.code = code;
    if (options?.address !== undefined) Object.defineProperty(this, 'address', { value: options.address, enumerable: true });
  }
}

/** An Error that the addon threw. */
interface NativeError extends Error {
  code: CheckpointErrorCode;
  address?: number;
}

function isNative(error: unknown): error is NativeError {
  return types.isNativeError(error) && 'code' in error && typeof error.code === 'string' && error.code.startsWith('ERR_CKPT_');
}

/**
 * What the addon threw, as users get it. The addon calls regions by number, 'regions[2]'; `label` gives them a better name. What is not the
 * addon's is returned as it is.
 */
export function fromNative(error: unknown, label?: (index: number) => string): unknown {
  if (!isNative(error) || error instanceof CheckpointError) return error;
  const message = label ? error.message.replace(/\bregions\[(\d+)\]/g, (_, index) => label(Number(index))) : error.message;
  return new CheckpointError(error.code, message, { address: error.address });
}

/** `Expected the "onProgress" option to be a function`. */
export function typeError(what: string, expected: string): TypeError {
  return Object.assign(new TypeError(`Expected ${what} to be ${expected}`), { code: 'ERR_INVALID_ARG_TYPE' });
}

/** `Expected the "pagesPerTrigger" option to be an integer from 1 to 256, got 0`. */
export function rangeError(what: string, expected: string, value: number): RangeError {
  return Object.assign(new RangeError(`Expected ${what} to be ${expected}, got ${value}`), { code: 'ERR_OUT_OF_RANGE' });
}
