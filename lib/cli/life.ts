// life.ts: a real WebAssembly program for the demo: Conway's Game of Life on a torus. Assembled here, so that the package carries no binary.
//
// All its state is in its memory: where the current grid is, the generation, and two grids of one byte per cell.

import type { WasmMemory } from '../regions';
import { assemble, instantiate, op, type Code } from './wasm';

/** Cells per side; a power of two, so that the edges wrap by a mask. */
export const SIDE = 256;
const CELLS = SIDE * SIDE;
const CURRENT = 0; // address of the address of the current grid
const GENERATION = 4;
const GRID = 65536;
const OTHER = GRID + CELLS;
const PAGES = (OTHER + CELLS) / 65536;
const FNV_OFFSET = 0x811c9dc5 | 0;
const FNV_PRIME = 0x01000193;

export interface Life {
  readonly memory: WasmMemory;
  /** Fills the grid from a number. */
  seed(number: number): void;
  /** Goes on for so many generations. */
  step(generations: number): void;
  /** Hash of the grid and the generation: the program's answer. */
  answer(): number;
}

const { get, set, i32, add, sub, mul, and, or, xor, shl, shrU, eq, load, store, load8, store8, forEach, repeat } = op;

/** seed(x): xorshift32, the top bit of each number is a cell. */
function seedBody(): Code {
  const [x, i] = [0, 1];
  const mix = (shift: Code): Code => set(x, xor(get(x), shift));
  return [
    ...store(i32(CURRENT), i32(GRID)),
    ...store(i32(GENERATION), i32(0)),
    ...forEach(i, i32(CELLS), [
      ...mix(shl(get(x), i32(13))),
      ...mix(shrU(get(x), i32(17))),
      ...mix(shl(get(x), i32(5))),
      ...store8(add(i32(GRID), get(i)), shrU(get(x), i32(31))),
    ]),
  ];
}

/** step(n) */
function stepBody(): Code {
  const [n, from, to, y, x, up, row, down, left, right] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const wrap = (value: Code): Code => and(value, i32(SIDE - 1));
  const line = (number: Code): Code => add(get(from), mul(wrap(number), i32(SIDE)));
  const cell = (base: number, column: number): Code => load8(add(get(base), get(column)));
  const neighbours = [cell(up, left), cell(up, x), cell(up, right), cell(row, left), cell(row, right)]
    .concat([cell(down, left), cell(down, x), cell(down, right)])
    .reduce(add);
  // Born with three neighbours, stays with two or three: exactly the cases in which neighbours | alive is three.
  const lives = eq(or(neighbours, cell(row, x)), i32(3));
  return repeat(n, [
    ...set(from, load(i32(CURRENT))),
    ...set(to, sub(i32(GRID + OTHER), get(from))),
    ...forEach(y, i32(SIDE), [
      ...set(up, line(sub(get(y), i32(1)))),
      ...set(row, line(get(y))),
      ...set(down, line(add(get(y), i32(1)))),
      ...forEach(x, i32(SIDE), [
        ...set(left, wrap(sub(get(x), i32(1)))),
        ...set(right, wrap(add(get(x), i32(1)))),
        ...store8(add(add(get(to), mul(get(y), i32(SIDE))), get(x)), lives),
      ]),
    ]),
    ...store(i32(CURRENT), get(to)),
    ...store(i32(GENERATION), add(load(i32(GENERATION)), i32(1))),
  ]);
}

/** answer(): FNV-1a */
function answerBody(): Code {
  const [i, hash] = [0, 1];
  const eat = (value: Code): Code => set(hash, mul(xor(get(hash), value), i32(FNV_PRIME)));
  return [
    ...set(hash, i32(FNV_OFFSET)),
    ...eat(load(i32(GENERATION))),
    ...forEach(i, i32(CELLS), eat(load8(add(load(i32(CURRENT)), get(i))))),
    ...get(hash),
  ];
}

/** A fresh instance with a memory of its own. */
export function life(): Life {
  const bytes = assemble(PAGES, [
    { name: 'seed', parameters: 1, result: false, locals: 1, body: seedBody() },
    { name: 'step', parameters: 1, result: false, locals: 9, body: stepBody() },
    { name: 'answer', parameters: 0, result: true, locals: 2, body: answerBody() },
  ]);
  return instantiate(bytes) as Life;
}
