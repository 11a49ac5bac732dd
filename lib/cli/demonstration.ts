// demonstration.ts: the demonstration itself: real memory and a running program are checkpointed, ruined, restored and compared.

import { createHash } from 'node:crypto';
import {
  checkpointSync,
  configure,
  restoreSync,
  settings,
  type Checkpoint,
  type Progress,
  type Region,
  type RestoreResult,
} from '../index';
import { life, type Life } from './life';

const MIB = 1 << 20;
/** The Buffers are of this size, so that there are many regions. */
const CHUNK = 16 * MIB;
const GENERATIONS = 100;
const COPIES = 5;

/** Shows one phase at a time. */
export interface DemoView {
  phase(label: string): { update(done: number, total: number): void; finish(outcome: string): void };
}

/** The two functions that are demonstrated. */
export interface DemoEngine {
  checkpointSync: typeof checkpointSync;
  restoreSync: typeof restoreSync;
}

/** GB/s, of the library's own clock. */
export interface DemoFigures {
  checkpointGBps: number;
  restoreGBps: number;
}

export interface DemoReport {
  ok: boolean;
  bytes: number;
  writer: RestoreResult['writer'];
  figures: { pageByPage: DemoFigures; bulk: DemoFigures };
  memcpyGBps: number;
  checks: { what: string; ok: boolean }[];
}

/** What is checkpointed: Buffers and a program that is under way. */
class Subject {
  readonly buffers: Buffer[] = [];
  readonly program: Life = life();
  readonly bytes: number;

  constructor(mib: number) {
    for (let left = mib * MIB; left > 0; left -= CHUNK) this.buffers.push(Buffer.allocUnsafeSlow(Math.min(left, CHUNK)));
    this.bytes = mib * MIB + this.program.memory.buffer.byteLength;
    this.#fill();
    this.program.seed(2024);
    this.program.step(GENERATIONS);
  }

  get regions(): Region[] {
    return [...this.buffers, this.program.memory];
  }

  checksum(): string {
    const hash = createHash('sha256');
    for (const buffer of [...this.buffers, new Uint8Array(this.program.memory.buffer)]) hash.update(buffer);
    return hash.digest('hex');
  }

  /** The program goes on from where its memory says it is. */
  goOn(): number {
    this.program.step(GENERATIONS);
    return this.program.answer();
  }

  /** Changes every byte. */
  ruin(): void {
    for (const words of this.#words()) for (let i = 0; i < words.length; i++) words[i] = ~(words[i] as number);
  }

  #fill(): void {
    let x = 1;
    for (const words of this.#words()) {
      for (let i = 0; i < words.length; i++) {
        x = (Math.imul(x, 1664525) + 1013904223) | 0;
        words[i] = x;
      }
    }
  }

  #words(): Uint32Array[] {
    const words = this.buffers.map(({ buffer, byteOffset, byteLength }) => new Uint32Array(buffer, byteOffset, byteLength / 4));
    return [...words, new Uint32Array(this.program.memory.buffer)];
  }
}

const rate = (bytes: number, ns: number): number => bytes / ns;

function gigabytes(bytes: number, ns: number): string {
  return `${(bytes / MIB).toFixed(1)} MiB in ${(ns / 1e6).toFixed(1)} ms, ${rate(bytes, ns).toFixed(2)} GB/s`;
}

interface Cost {
  bytes: number;
  pages: number;
  ns: number;
}

/** Runs one phase with its line in the view; counts its progress events. */
function moved<T>(view: DemoView, label: string, cost: (result: T) => Cost, work: (onProgress: (event: Progress) => void) => T) {
  const line = view.phase(label);
  let events = 0;
  const result = work(({ donePages, totalPages }) => {
    events++;
    line.update(donePages, totalPages);
  });
  const { bytes, pages, ns } = cost(result);
  line.finish(gigabytes(bytes, ns));
  return { result, events, pages, gbps: rate(bytes, ns) };
}

const captureCost = ({ pages, stats }: Checkpoint): Cost => ({ bytes: stats.storedBytes, pages, ns: stats.durationNs });
const restoreCost = ({ bytes, pages, durationNs }: RestoreResult): Cost => ({ bytes, pages, ns: durationNs });

class Demonstration {
  readonly checks: DemoReport['checks'] = [];
  readonly #subject: Subject;
  readonly #view: DemoView;
  readonly #engine: DemoEngine;
  readonly #checksum: string;

  constructor(subject: Subject, view: DemoView, engine: DemoEngine) {
    this.#subject = subject;
    this.#view = view;
    this.#engine = engine;
    this.#checksum = subject.checksum();
  }

  /** The first checkpoint makes the page store, the later ones find it in the pool. */
  warmUp(): void {
    const { regions } = this.#subject;
    moved(this.#view, 'first checkpoint', captureCost, (onProgress) =>
      this.#engine.checkpointSync({ regions, onProgress }),
    ).result.dispose();
  }

  /** Checkpoint, ruin, restore, compare. */
  round(name: string, pace: { pagesPerTrigger?: number }): DemoFigures & { writer: RestoreResult['writer'] } {
    const { regions } = this.#subject;
    const capture = moved(this.#view, `checkpoint, ${name}`, captureCost, (onProgress) =>
      this.#engine.checkpointSync({ regions, ...pace, onProgress }),
    );
    const ckpt = capture.result;
    const answer = this.#subject.goOn();
    this.#ruin(name);
    const restore = moved(this.#view, `restore, ${name}`, restoreCost, (onProgress) =>
      this.#engine.restoreSync(ckpt, { ...pace, onProgress }),
    );
    this.#compare(name, ckpt, answer);
    if (pace.pagesPerTrigger === 1) {
      this.#check('each page stored was one progress event', capture.events === capture.pages);
      this.#check('each page restored was one progress event', restore.events === restore.pages);
    }
    ckpt.dispose();
    return { checkpointGBps: capture.gbps, restoreGBps: restore.gbps, writer: restore.result.writer };
  }

  /** The bytes are those of the checkpoint, the program goes on from there, and all that a second time. */
  #compare(name: string, ckpt: Checkpoint, answer: number): void {
    const subject = this.#subject;
    this.#check(`the checksum after the restore (${name}) is that of before`, subject.checksum() === this.#checksum);
    this.#check(`the program goes on to the same answer (${name})`, subject.goOn() === answer);
    this.#engine.restoreSync(ckpt);
    this.#check(`the checksum after a second restore (${name}) is that of before`, subject.checksum() === this.#checksum);
  }

  #ruin(name: string): void {
    const line = this.#view.phase('ruin every byte');
    this.#subject.ruin();
    const changed = this.#subject.checksum() !== this.#checksum;
    this.#check(`the checksum of the ruined memory (${name}) differs`, changed);
    line.finish(changed ? 'checksum differs' : 'FAILED');
  }

  #check(what: string, ok: boolean): void {
    this.checks.push({ what, ok });
  }
}

/** GB/s of copying the same Buffers to others that are there already; the median of a few. */
function memcpyRate(buffers: readonly Buffer[]): number {
  const copies = buffers.map(({ length }) => Buffer.alloc(length, 1));
  const bytes = buffers.reduce((sum, { length }) => sum + length, 0);
  const times = Array.from({ length: COPIES }, () => {
    const start = process.hrtime.bigint();
    buffers.forEach((buffer, index) => buffer.copy(copies[index] as Buffer));
    return Number(process.hrtime.bigint() - start);
  });
  return rate(bytes, times.sort((a, b) => a - b)[COPIES >> 1] as number);
}

/** Runs the demonstration with so many MiB of Buffers and reports what came of it. */
export function demonstrate(mib: number, view: DemoView, engine: DemoEngine = { checkpointSync, restoreSync }): DemoReport {
  const subject = new Subject(mib);
  const before = settings();
  configure({ poolBytes: Math.max(before.poolBytes, 2 * subject.bytes) });
  const demonstration = new Demonstration(subject, view, engine);
  demonstration.warmUp();
  const { writer, ...pageByPage } = demonstration.round('page by page', { pagesPerTrigger: 1 });
  const { writer: same, ...bulk } = demonstration.round('bulk', {});
  const memcpyGBps = memcpyRate(subject.buffers);
  configure({ poolBytes: before.poolBytes });
  const { checks } = demonstration;
  checks.push({ what: 'both restores used the same writer', ok: writer === same });
  return { ok: checks.every(({ ok }) => ok), bytes: subject.bytes, writer, figures: { pageByPage, bulk }, memcpyGBps, checks };
}
