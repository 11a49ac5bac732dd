// paths.ts: `ebpf-ckpt paths`: where the library for C programs lies in this installation.

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Command, OptionValues } from './command';

const root = join(__dirname, '..', '..');
/** As native.ts looks for the addon: what was built here goes before what came with the package. */
const places = [join('build', 'Release'), join('build', 'Debug'), join('prebuilds', `${process.platform}-${process.arch}`)];

const files = {
  library: join('lib', 'libebpf_ckpt.so'),
  archive: join('lib', 'libebpf_ckpt.a'),
  header: join('include', 'ebpf_ckpt.h'),
  pkgConfig: join('lib', 'pkgconfig', 'ebpf-ckpt.pc'),
};

type Found = Record<keyof typeof files, string>;

/** Paths of the library's files; undefined where no place has all of them. */
function find(): Found | undefined {
  const place = places
    .map((folder) => join(root, folder))
    .find((folder) => Object.values(files).every((file) => existsSync(join(folder, file))));
  return place === undefined
    ? undefined
    : (Object.fromEntries(Object.entries(files).map(([name, file]) => [name, join(place, file)])) as Found);
}

function print(found: Found): void {
  const width = Math.max(...Object.keys(found).map((name) => name.length));
  for (const [name, path] of Object.entries(found)) console.log(`${name.padEnd(width)}  ${path}`);
}

function run(values: OptionValues): Promise<number> {
  const found = find();
  if (found === undefined) {
    console.error(`The library for C programs is not built here: run \`npm run build\` in ${root}`);
    return Promise.resolve(1);
  }
  if (values['pkg-config'] === true) console.log(dirname(found.pkgConfig));
  else if (values['json'] === true) console.log(JSON.stringify(found, undefined, 2));
  else print(found);
  return Promise.resolve(0);
}

export const pathsCommand: Command = {
  name: 'paths',
  summary: 'Tells where library, header and pkg-config file for C programs lie',
  help: ['--json         the same as JSON', '--pkg-config   just the folder that belongs in PKG_CONFIG_PATH'],
  options: { json: { type: 'boolean' }, 'pkg-config': { type: 'boolean' } },
  run,
};
