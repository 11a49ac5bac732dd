// support.ts: support(): what this machine and this process can do.

import { native } from './native';
import type { NativeSupport } from './native';
import type { Writer } from './options';

/** What this machine can do, and what it lacks. `ebpf-ckpt doctor` prints it. */
export interface Support {
  /** Checkpoints work. */
  readonly ok: boolean;
  /** The writers that can put bytes back. */
  readonly writers: readonly Writer[];
  /** The one that `writer: 'auto'` takes; undefined if checkpoints do not work. */
  readonly writer: Writer | undefined;
  /** Of the kernel: "6.18.44". */
  readonly release: string;
  /** "x86_64". */
  readonly machine: string;
  readonly lockdown: 'none' | 'integrity' | 'confidentiality' | 'unknown';
  /** How the ids of tracepoints are reached: "mounted", "private", or why not. */
  readonly tracefs: string;
  /** Both ids were read. */
  readonly tracepoints: boolean;
  /** 0 none, 1 strict, 2 filter. */
  readonly seccomp: number;
  readonly features: {
    /** /sys/kernel/btf/vmlinux is readable. */
    readonly btf: boolean;
    /** A tracepoint program loads ... */
    readonly bpf: boolean;
    /** ... with the helper that writes to processes ... */
    readonly kernelWriter: boolean;
    /** ... with an atomic fetch-and-add. */
    readonly fetchAndAdd: boolean;
    /** How the programs walk the mappings of a process. */
    readonly walk: 'none' | 'iterator' | 'list';
    /** PAGEMAP_SCAN. */
    readonly pageScan: boolean;
    /** PROCMAP_QUERY. */
    readonly mappingQuery: boolean;
    /** MADV_POPULATE_READ and MADV_POPULATE_WRITE. */
    readonly populate: boolean;
    /** Why `bpf` is false, 0 if it is not. */
    readonly bpfErrno: number;
    /** Why `kernelWriter` is false, 0 if it is not. */
    readonly writerErrno: number;
  };
  readonly capabilities: readonly { readonly name: string; readonly effective: boolean; readonly neededFor: string }[];
  /** What is missing and what grants it (`fix` is empty if nothing can), those that prevent checkpoints (`fatal`) first. */
  readonly problems: readonly { readonly code: string; readonly message: string; readonly fix: string; readonly fatal: boolean }[];
}

function writersOf({ features }: NativeSupport): Writer[] {
  return features.kernelWriter ? ['kernel', 'user'] : ['user'];
}

/** Looks at the kernel and at the privileges of this process. Never throws because of what they lack. */
export function support(): Support {
  const found = native.support();
  const ok = !found.problems.some((problem) => problem.fatal);
  const writers = ok ? writersOf(found) : [];
  return { ok, writers, writer: writers[0], ...found };
}
