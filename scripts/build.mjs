// build.mjs: builds what is not up to date: the native side into build/Release, lib/ into dist/.
//
//   node scripts/build.mjs                 both
//   node scripts/build.mjs native|ts       one of them
//   node scripts/build.mjs product         both, without what only the tests need
//   node scripts/build.mjs addon           the addon alone
//   BUILD_TYPE=Debug                       the native side unstripped and with assertions, into build/Debug

import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const buildDir = join(root, 'build', 'cmake');
const type = process.env.BUILD_TYPE ?? 'Release';

function run(command, args) {
  execFileSync(command, args, { cwd: root, stdio: 'inherit' });
}

function runNode(script, args) {
  run(process.execPath, [join(root, 'node_modules', script), ...args]);
}

/** Whether the build folder was configured, for this build type and at this place: a checkout that was moved or copied is not. */
function configured() {
  const cache = join(buildDir, 'CMakeCache.txt');
  if (!existsSync(cache)) return false;
  const text = readFileSync(cache, 'utf8');
  const value = (name) => new RegExp(`^${name}:[A-Z]+=(.*)$`, 'm').exec(text)?.[1];
  const include = value('CMAKE_JS_INC')?.split(';') ?? [];
  return (
    value('CMAKE_HOME_DIRECTORY') === root &&
    value('CMAKE_CACHEFILE_DIR') === buildDir &&
    value('CMAKE_BUILD_TYPE') === type &&
    include.every((folder) => existsSync(folder)) &&
    ['build.ninja', 'Makefile'].some((file) => existsSync(join(buildDir, file)))
  );
}

const targets = {
  addon: ['ebpf_ckpt'],
  product: ['ebpf_ckpt', 'ebpf-ckpt-daemon', 'ebpf-ckpt-demo', 'ckpt_shared', 'ckpt_static'],
};

function buildNative(wanted) {
  if (!configured()) {
    rmSync(buildDir, { recursive: true, force: true });
    runNode('cmake-js/bin/cmake-js', [
      'configure',
      '--log-level',
      'error',
      '--config',
      type,
      '--out',
      buildDir,
      '--CDCMAKE_MESSAGE_LOG_LEVEL=NOTICE',
    ]);
  }
  run('cmake', ['--build', buildDir, '--target', ...wanted, '--parallel', String(availableParallelism())]);
}

/** Removes compiled files whose source is gone, so that neither tests nor the package see them. */
function sweep(folder = '') {
  const out = join(root, 'dist', folder);
  if (!existsSync(out)) return;
  for (const entry of readdirSync(out, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    const source = join(root, 'lib', path.replace(/(\.d)?\.[jt]s$/, '.ts'));
    if (entry.isDirectory()) sweep(path);
    else if (!entry.name.startsWith('.') && !existsSync(source)) rmSync(join(root, 'dist', path));
  }
}

/** tsc remembers what it has compiled, but not that somebody removed it. */
function forgetIfIncomplete() {
  const sources = readdirSync(join(root, 'lib'), { recursive: true }).filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts'));
  if (sources.every((file) => existsSync(join(root, 'dist', file.replace(/ts$/, 'js'))))) return;
  rmSync(join(root, 'build', 'lib.tsbuildinfo'), { force: true });
}

function buildTypeScript() {
  if (!existsSync(join(root, 'lib'))) return; // in an installed package dist/ is all there is
  sweep();
  forgetIfIncomplete();
  runNode('typescript/bin/tsc', ['--project', 'tsconfig.build.json']);
  chmodSync(join(root, 'dist', 'cli', 'main.js'), 0o755); // a link to it, as npx makes one, has to run
}

const what = process.argv[2];
try {
  if (what !== 'ts') buildNative(targets[what] ?? ['all']);
  if (what === undefined || what === 'product' || what === 'ts') buildTypeScript();
} catch (error) {
  // The command has said what is wrong.
  if (typeof error.status === 'number') process.exit(error.status || 1);
  throw error;
}
