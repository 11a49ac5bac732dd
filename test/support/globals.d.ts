// globals.d.ts: what Node has and the libraries of tsconfig.json do not declare.

/// <reference lib="es2024.arraybuffer" />
/// <reference lib="es2024.sharedmemory" />

declare namespace WebAssembly {
  class Memory {
    constructor(options: { initial: number; maximum?: number; shared?: boolean });
    readonly buffer: ArrayBufferLike;
    grow(pages: number): number;
  }
}
