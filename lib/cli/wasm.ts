// wasm.ts: a WebAssembly assembler as small as the demo's program allows: i32 only, one memory, everything exported.

import type { WasmMemory } from '../regions';

/** Bytes of instructions. */
export type Code = readonly number[];

export interface WasmFunction {
  readonly name: string;
  /** How many, all i32; they are the first locals. */
  readonly parameters: number;
  /** Whether it returns an i32. */
  readonly result: boolean;
  /** Further i32 locals. */
  readonly locals: number;
  readonly body: Code;
}

const I32 = 0x7f;

function unsigned(value: number): number[] {
  const bytes: number[] = [];
  do {
    const low = value & 0x7f;
    value >>>= 7;
    bytes.push(value === 0 ? low : low | 0x80);
  } while (value !== 0);
  return bytes;
}

function signed(value: number): number[] {
  const bytes: number[] = [];
  for (;;) {
    const low = value & 0x7f;
    value >>= 7;
    const last = (value === 0 && (low & 0x40) === 0) || (value === -1 && (low & 0x40) !== 0);
    bytes.push(last ? low : low | 0x80);
    if (last) return bytes;
  }
}

const vector = (items: readonly (readonly number[])[]): number[] => [...unsigned(items.length), ...items.flat()];
const sized = (bytes: readonly number[]): number[] => [...unsigned(bytes.length), ...bytes];
const section = (id: number, content: readonly number[]): number[] => [id, ...sized(content)];
const text = (string: string): number[] => sized([...Buffer.from(string)]);

const binary =
  (opcode: number) =>
  (left: Code, right: Code): Code => [...left, ...right, opcode];

const get = (local: number): Code => [0x20, ...unsigned(local)];
const set = (local: number, value: Code): Code => [...value, 0x21, ...unsigned(local)];
const i32 = (value: number): Code => [0x41, ...signed(value | 0)];
const add = binary(0x6a);
const sub = binary(0x6b);
const ltU = binary(0x49);

/** Runs the body with the local at 0, 1, ... limit - 1; at least once. */
function forEach(local: number, limit: Code, body: Code): Code {
  const next = set(local, add(get(local), i32(1)));
  return [...set(local, i32(0)), 0x03, 0x40, ...body, ...next, ...ltU(get(local), limit), 0x0d, 0x00, 0x0b];
}

/** Runs the body as often as the local says, and leaves it at 0. */
function repeat(local: number, body: Code): Code {
  const leaveAtZero: Code = [...get(local), 0x45, 0x0d, 0x01];
  return [0x02, 0x40, 0x03, 0x40, ...leaveAtZero, ...body, ...set(local, sub(get(local), i32(1))), 0x0c, 0x00, 0x0b, 0x0b];
}

/** Instructions as functions from operands to code. Addresses of load and store are bytes. */
export const op = {
  get,
  set,
  i32,
  add,
  sub,
  ltU,
  mul: binary(0x6c),
  and: binary(0x71),
  or: binary(0x72),
  xor: binary(0x73),
  shl: binary(0x74),
  shrU: binary(0x76),
  eq: binary(0x46),
  load: (address: Code): Code => [...address, 0x28, 2, 0],
  store: (address: Code, value: Code): Code => [...address, ...value, 0x36, 2, 0],
  load8: (address: Code): Code => [...address, 0x2d, 0, 0],
  store8: (address: Code, value: Code): Code => [...address, ...value, 0x3a, 0, 0],
  forEach,
  repeat,
};

/** The bytes of a module with so many 64 KiB pages of memory, exported as `memory`, and the functions, exported by name. */
export function assemble(pages: number, functions: readonly WasmFunction[]): Uint8Array<ArrayBuffer> {
  const types = functions.map(({ parameters, result }) => [
    0x60,
    ...vector(Array<number[]>(parameters).fill([I32])),
    ...vector(result ? [[I32]] : []),
  ]);
  const exported = functions.map(({ name }, index) => [...text(name), 0, ...unsigned(index)]);
  const bodies = functions.map(({ locals, body }) => sized([...vector([[...unsigned(locals), I32]]), ...body, 0x0b]));
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector(types)),
    ...section(3, vector(functions.map((_, index) => unsigned(index)))),
    ...section(5, vector([[0, ...unsigned(pages)]])),
    ...section(7, vector([[...text('memory'), 2, 0], ...exported])),
    ...section(10, vector(bodies)),
  ]);
}

/** As much of the global as is needed: its type belongs to libraries (DOM) that a program for Node does not include. */
interface Global {
  WebAssembly: {
    Module: new (bytes: Uint8Array<ArrayBuffer>) => object;
    Instance: new (module: object) => { exports: unknown };
  };
}

/** What an instance of the module exports: its memory and its functions. */
export function instantiate(bytes: Uint8Array<ArrayBuffer>): { readonly memory: WasmMemory } {
  const { Module, Instance } = (globalThis as unknown as Global).WebAssembly;
  return new Instance(new Module(bytes)).exports as { readonly memory: WasmMemory };
}
