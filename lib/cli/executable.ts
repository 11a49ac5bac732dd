// executable.ts: finds the executables of this installation, which lie beside the addon.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { CommandError } from './command';

const root = join(__dirname, '..', '..');

/** In the order of native.ts. */
const folders = [
  join(root, 'build', 'Release'),
  join(root, 'build', 'Debug'),
  join(root, 'prebuilds', `${process.platform}-${process.arch}`),
];

/** The path of an executable. Throws CommandError if it is not built. */
export function executable(name: 'ebpf-ckpt-daemon' | 'ebpf-ckpt-demo'): string {
  const places = folders.map((folder) => join(folder, name));
  const found = places.find((place) => existsSync(place));
  if (found === undefined)
    throw new CommandError(`${name} is not built: there is no ${String(places[0])}. Run \`npm run build\` in ${root}`);
  return found;
}
