// cut-off.mjs: restores a mapping whose file was truncated since its checkpoint; reports the refusal as JSON. usage: LAYOUT WRITER SHARED

import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkpointSync, restoreSync } from 'ebpf-ckpt';

const memtool = createRequire(import.meta.url)('../../build/Release/memtool.node');
const [layout, writer, shared] = process.argv.slice(2);
const bytes = 6 * 4096;
const readWrite = 3;
const folder = mkdtempSync(join(tmpdir(), 'ebpf-ckpt-test-'));
const file = join(folder, 'file');
writeFileSync(file, new Uint8Array(bytes).fill(5));
const fd = openSync(file, 'r+');
rmSync(folder, { recursive: true });

const address = memtool.map(bytes, readWrite, shared === 'true' ? 1 : 2, fd, 0);
const view = new Uint8Array(memtool.expose(address, bytes)).fill(9);
const ckpt = checkpointSync({ regions: view, layout });
ftruncateSync(fd, 4096);
closeSync(fd);
try {
  restoreSync(ckpt, { writer });
  console.log('{}');
} catch (error) {
  console.log(JSON.stringify({ code: error.code, message: error.message, offset: error.address - address }));
}
