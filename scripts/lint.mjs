// lint.mjs: checks the form of every source: clang-format, Prettier, ESLint and types, side by side. With --fix: formats them.

import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const fix = process.argv.includes('--fix');
const shownLines = 60;

/** The C and C++ sources below `folders`. */
function cSources(...folders) {
  return folders
    .filter((folder) => existsSync(join(root, folder)))
    .flatMap((folder) => readdirSync(join(root, folder), { recursive: true }).map((file) => join(folder, file)))
    .filter((file) => /\.(c|cc|h)$/.test(file));
}

/** Runs a tool; resolves to whether it was content, having printed what it said if not. */
function check(name, command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.stderr.on('data', (chunk) => (output += chunk));
    child.on('error', (error) => (output += `${error.message}\n`));
    child.on('close', (status) => {
      const lines = output.trimEnd().split('\n');
      const more = lines.length > shownLines ? [`... and ${lines.length - shownLines} lines more`] : [];
      if (status !== 0) console.log([`lint: ${name} is not content:`, ...lines.slice(0, shownLines), ...more].join('\n'));
      resolve(status === 0);
    });
  });
}

function checkWithNode(name, script, ...args) {
  return check(name, process.execPath, [join(root, 'node_modules', script), ...args]);
}

function checkAll() {
  return Promise.all([
    check('clang-format', 'clang-format', ['--dry-run', '-Werror', ...cSources('bpf', 'native', 'test/native')]),
    checkWithNode('prettier', 'prettier/bin/prettier.cjs', '--log-level', 'warn', '--check', '.'),
    checkWithNode('eslint', 'eslint/bin/eslint.js', '--max-warnings', '0'),
    checkWithNode('tsc', 'typescript/bin/tsc', '--project', 'tsconfig.json'),
  ]);
}

async function fixAll() {
  // ESLint first: what it mends need not look like Prettier's.
  const eslint = await checkWithNode('eslint', 'eslint/bin/eslint.js', '--fix');
  const clangFormat = check('clang-format', 'clang-format', ['-i', ...cSources('bpf', 'native', 'test/native')]);
  const prettier = checkWithNode('prettier', 'prettier/bin/prettier.cjs', '--log-level', 'warn', '--write', '.');
  return [eslint, await clangFormat, await prettier];
}

const results = await (fix ? fixAll() : checkAll());
if (results.includes(false)) {
  if (!fix) console.log('lint: `npm run format` mends what is only formatting.');
  process.exit(1);
}
