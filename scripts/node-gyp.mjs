#!/usr/bin/env node
// node-gyp.mjs: stands in for node-gyp under prebuildify, which would fetch the newest Node's headers for a build that needs none.
//
// prebuildify takes the first addon that it finds in build/Release: only ours may be there.

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const products = join(root, 'build', 'Release');

execFileSync(process.execPath, [join(root, 'scripts', 'build.mjs'), 'addon'], { stdio: 'inherit' });
for (const file of existsSync(products) ? readdirSync(products) : []) {
  if (file.endsWith('.node') && file !== 'ebpf_ckpt.node') rmSync(join(products, file));
}
