// c-demonstration.ts: the C half of the demonstration: an unprivileged C program saves its memory through the daemon, ruins it, takes it back.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { DemoView } from './demonstration';
import { executable } from './executable';

/** Whoever owns nothing: the program runs as this user. */
const NOBODY = 65534;
const MIB = 1 << 20;

/** What native/client/demo.c prints. */
type Line =
  | { event: 'progress'; phase: 'save' | 'recover'; donePages: number; totalPages: number }
  | { event: 'step'; step: 'save' | 'recover'; bytes: number; ms: number }
  | { event: 'checksum'; when: 'before' | 'ruined' | 'after'; value: string }
  | { event: 'failed'; step: string; errno: string; message: string }
  | { event: 'end'; uid: number; ok: boolean };

export interface CDemoReport {
  ok: boolean;
  bytes: number;
  /** GB/s of all the program's memory, by its own clock. */
  figures: { saveGBps: number; recoverGBps: number };
  checks: { what: string; ok: boolean }[];
}

const labels = { save: 'C program: save', recover: 'C program: recover' };

/** Follows the program line by line. */
export class Watcher {
  readonly #view: DemoView;
  #line: ReturnType<DemoView['phase']> | undefined;
  readonly #sums = new Map<string, string>();
  readonly #rates = { save: 0, recover: 0 };
  #bytes = 0;
  #uid = 0;
  #ended = false;
  #failure: string | undefined;

  constructor(view: DemoView) {
    this.#view = view;
  }

  take(line: Line): void {
    switch (line.event) {
      case 'progress':
        this.#line ??= this.#view.phase(labels[line.phase]);
        this.#line.update(line.donePages, line.totalPages);
        break;
      case 'step':
        this.#step(line);
        break;
      case 'checksum':
        this.#sums.set(line.when, line.value);
        if (line.when === 'ruined') this.#view.phase('C program: ruin every byte').finish(this.#ruined() ? 'checksum differs' : 'FAILED');
        break;
      case 'failed':
        this.#failure = `${line.step}: ${line.errno}: ${line.message}`;
        break;
      case 'end':
        this.#uid = line.uid;
        this.#ended = line.ok;
    }
  }

  #step({ step, bytes, ms }: Extract<Line, { event: 'step' }>): void {
    this.#rates[step] = bytes / ms / 1e6;
    this.#bytes = Math.max(this.#bytes, bytes);
    const line = this.#line ?? this.#view.phase(labels[step]);
    line.finish(`${(bytes / MIB).toFixed(1)} MiB in ${ms.toFixed(1)} ms, ${this.#rates[step].toFixed(2)} GB/s`);
    this.#line = undefined;
  }

  #ruined(): boolean {
    return this.#sums.get('ruined') !== this.#sums.get('before');
  }

  report(mib: number, status: number | null): CDemoReport {
    const before = this.#sums.get('before');
    const checks = [
      { what: `the C program came through${this.#failure === undefined ? '' : ` (${this.#failure})`}`, ok: status === 0 && this.#ended },
      { what: 'it had no privilege', ok: this.#uid === NOBODY },
      { what: 'it saved all of its memory', ok: this.#bytes >= mib * MIB },
      { what: 'its memory was ruined', ok: before !== undefined && this.#ruined() },
      { what: 'heap, .data, .bss and mappings are as they were', ok: before !== undefined && this.#sums.get('after') === before },
    ];
    const { save: saveGBps, recover: recoverGBps } = this.#rates;
    return { ok: checks.every(({ ok }) => ok), bytes: this.#bytes, figures: { saveGBps, recoverGBps }, checks };
  }
}

/** Runs the C program beside a daemon, with so many MiB of memory. Throws if one of them is not built. */
export async function demonstrateC(mib: number, view: DemoView): Promise<CDemoReport> {
  const folder = mkdtempSync(join(tmpdir(), 'ebpf-ckpt-demo-'));
  try {
    // The installation may lie where that user must not look.
    const program = join(folder, 'demo');
    copyFileSync(executable('ebpf-ckpt-demo'), program);
    chmodSync(folder, 0o755);
    chmodSync(program, 0o755);
    const user = ['setpriv', '--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups'];
    const args = ['run', '--quiet', '--allow-uid', String(NOBODY), '--', ...user, program, String(mib)];
    const child = spawn(executable('ebpf-ckpt-daemon'), args, { stdio: ['ignore', 'pipe', 'inherit'] });
    const watcher = new Watcher(view);
    const ended = once(child, 'close');
    for await (const line of createInterface(child.stdout)) watcher.take(JSON.parse(line) as Line);
    const [status] = (await ended) as [number | null];
    return watcher.report(mib, status);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
