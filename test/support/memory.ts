// memory.ts: memory of any kind at a known address, for the tests: the test addon memtool, typed.

import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';

export const PAGE = 4096;
export const NONE = 0;
export const READ = 1;
export const READ_WRITE = 3;

const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MADV_DONTNEED = 4;
const MADV_NOHUGEPAGE = 15;
const MADV_PAGEOUT = 21;

/** Whether pages can be swapped out here. */
export const hasSwap = readFileSync('/proc/swaps', 'latin1').trimEnd().split('\n').length > 1;

/** A child that shares the pages of a range until it is released. */
export interface Holder {
  readonly pid: number;
  /** True if the child still saw the bytes of the moment it was forked. */
  release(): boolean;
}

interface Memtool {
  map(bytes: number, prot: number, flags: number, fd: number, offset: number): number;
  expose(address: number, bytes: number): ArrayBuffer;
  unmap(address: number, bytes: number): void;
  protect(address: number, bytes: number, prot: number): void;
  advise(address: number, bytes: number, advice: number): void;
  addressOf(view: ArrayBufferView | ArrayBuffer): number;
  fillElsewhere(address: number, bytes: number, value: number): void;
  /** Bytes that addons have charged to V8: process.memoryUsage() counts only what buffers hold. */
  externalMemory(): number;
  Holder: new (address: number, bytes: number) => Holder;
}

// eslint-disable-next-line @typescript-eslint/no-require-imports -- an addon can only be required
export const memtool = require(join(__dirname, '..', '..', 'build', 'Release', 'memtool.node')) as Memtool;

/** A mapping of the tests' own. Pages are small: huge ones would blur which page is there. */
export class Mapping {
  readonly address: number;
  readonly bytes: number;
  /** All of it. */
  readonly view: Uint8Array<ArrayBuffer>;
  #gone: { from: number; to: number }[] = [];

  private constructor(bytes: number, flags: number, fd = -1, prot = READ_WRITE) {
    this.address = memtool.map(bytes, prot, flags, fd, 0);
    this.bytes = bytes;
    if ((flags & MAP_ANONYMOUS) !== 0) memtool.advise(this.address, bytes, MADV_NOHUGEPAGE);
    this.view = new Uint8Array(memtool.expose(this.address, bytes));
    mappings.push(this);
  }

  static private(bytes: number): Mapping {
    return new Mapping(bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  }

  static shared(bytes: number): Mapping {
    return new Mapping(bytes, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE);
  }

  /** A private mapping of a file. */
  static file(path: string, bytes: number): Mapping {
    return Mapping.#open(path, (fd) => new Mapping(bytes, MAP_PRIVATE, fd));
  }

  /** A shared mapping of a file that nobody may write through it. */
  static readOnlyFile(path: string, bytes: number): Mapping {
    return Mapping.#open(path, (fd) => new Mapping(bytes, MAP_SHARED, fd, READ));
  }

  static #open(path: string, map: (fd: number) => Mapping): Mapping {
    const fd = openSync(path, 'r');
    try {
      return map(fd);
    } finally {
      closeSync(fd);
    }
  }

  /** A view of so many bytes at an offset. */
  at(offset: number, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.view.buffer, offset, bytes);
  }

  protect(prot: number, offset = 0, bytes = this.bytes): void {
    memtool.protect(this.address + offset, bytes, prot);
  }

  /** Gives pages back: private anonymous ones read as zeros then, others as what is behind them. */
  drop(offset = 0, bytes = this.bytes): void {
    memtool.advise(this.address + offset, bytes, MADV_DONTNEED);
  }

  /** Swaps all pages out: true once they are. */
  swapOut(): boolean {
    for (let tries = 0; tries < 100; tries++) {
      memtool.advise(this.address, this.bytes, MADV_PAGEOUT);
      const pages = Array.from({ length: this.bytes / PAGE }, (_, page) => pageState(this.address + page * PAGE));
      if (pages.every((state) => state === 'swapped')) return true;
    }
    return false;
  }

  unmap(offset = 0, bytes = this.bytes): void {
    memtool.unmap(this.address + offset, bytes);
    this.#gone.push({ from: offset, to: offset + bytes });
  }

  /** Unmaps what is left. */
  free(): void {
    let from = 0;
    for (const gone of this.#gone.sort((a, b) => a.from - b.from)) {
      if (gone.from > from) memtool.unmap(this.address + from, gone.from - from);
      from = gone.to;
    }
    if (from < this.bytes) memtool.unmap(this.address + from, this.bytes - from);
    this.#gone = [{ from: 0, to: this.bytes }];
  }

  hold(): Holder {
    return new memtool.Holder(this.address, this.bytes);
  }
}

let mappings: Mapping[] = [];

/** Unmaps every Mapping: an afterEach of the suites that make some, once nothing holds their bytes. */
export function freeMappings(): void {
  for (const mapping of mappings) mapping.free();
  mappings = [];
}

export type PageState = 'absent' | 'swapped' | 'shared' | 'present';

/** What our page table says of a page; `shared`: others have it too (the zero page, pages shared with a forked child or a file). */
export function pageState(address: number): PageState {
  const fd = openSync('/proc/self/pagemap', 'r');
  const entry = Buffer.alloc(8);
  readSync(fd, entry, 0, 8, Math.floor(address / PAGE) * 8);
  closeSync(fd);
  const bits = entry.readBigUInt64LE();
  if ((bits >> 63n) & 1n) return (bits >> 56n) & 1n ? 'present' : 'shared';
  return (bits >> 62n) & 1n ? 'swapped' : 'absent';
}

/** The protection of the mapping at an address, as in "rw-p". */
export function protectionAt(address: number): string | undefined {
  for (const line of readFileSync('/proc/self/maps', 'latin1').split('\n')) {
    const [, start, end, protection] = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(line) ?? [];
    if (start !== undefined && parseInt(start, 16) <= address && address < parseInt(end as string, 16)) return protection;
  }
  return undefined;
}
