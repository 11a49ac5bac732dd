// ways.ts: every way bytes can go: both layouts, every writer this kernel allows. Nothing is skipped: 00-support checks the list.

import { support, type CheckpointOptions, type RestoreResult } from 'ebpf-ckpt';

export type Layout = NonNullable<CheckpointOptions['layout']>;
export type Writer = RestoreResult['writer'];

export const layouts: readonly Layout[] = ['fast', 'seed'];
export const writers: readonly Writer[] = support().writers;

export interface Way {
  layout: Layout;
  writer: Writer;
}

export const ways: readonly Way[] = layouts.flatMap((layout) => writers.map((writer) => ({ layout, writer })));

/** A describe() for each way. */
export function eachWay(define: (way: Way) => void): void {
  for (const way of ways) describe(`layout ${way.layout}, ${way.writer} writer`, () => define(way));
}
