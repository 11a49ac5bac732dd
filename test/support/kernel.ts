// kernel.ts: what the kernel itself says is loaded, attached, open and resident.

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { counts } from '../counts';

const bpftool =
  ['/usr/sbin/bpftool', '/sbin/bpftool', '/usr/local/sbin/bpftool', '/usr/bin/bpftool'].find((path) => existsSync(path)) ?? 'bpftool';

interface Listed {
  map_ids?: number[];
  id: number;
  name?: string;
  type: string;
}

function list(kind: 'prog' | 'map', ...what: string[]): Listed[] {
  return JSON.parse(execFileSync(bpftool, ['-j', kind, ...what], { encoding: 'utf8', maxBuffer: 1 << 28 })) as Listed[];
}

/** Ids of a kind of descriptor that this process holds. */
function heldIds(field: 'map_id' | 'prog_id'): Set<number> {
  const ids = new Set<number>();
  for (const fd of readdirSync('/proc/self/fdinfo')) {
    const id = new RegExp(`^${field}:\\s*(\\d+)$`, 'm').exec(fdinfo(fd))?.[1];
    if (id !== undefined) ids.add(Number(id));
  }
  return ids;
}

function fdinfo(fd: string): string {
  try {
    return readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1');
  } catch {
    return ''; // the descriptor of the listing itself
  }
}

/** Programs and maps whose descriptors this process holds. */
export function held(): { programs: Listed[]; maps: Listed[] } {
  const [programs, maps] = [heldIds('prog_id'), heldIds('map_id')];
  return {
    programs: list('prog', 'list').filter(({ id }) => programs.has(id)),
    maps: list('map', 'list').filter(({ id }) => maps.has(id)),
  };
}

/** The id of our map of a name and type. */
export function mapId(name: string, type: string): number {
  const found = held().maps.filter((map) => map.name === name && map.type === type);
  if (found.length !== 1) throw new Error(`expected one ${type} '${name}' of ours, found ${found.length}`);
  return (found[0] as Listed).id;
}

/** Ids of our maps of these names: each layout has some. */
export function mapsNamed(...names: string[]): number[] {
  return held().maps.flatMap(({ id, name }) => (names.includes(name ?? '') ? [id] : []));
}

/** Everything in a map, as the kernel gives it out: for a map of maps, the ids of the inner ones. */
export function mapContent(id: number): string {
  return execFileSync(bpftool, ['-j', 'map', 'dump', 'id', String(id)], { encoding: 'utf8', maxBuffer: 1 << 28 });
}

/** How many elements a map has. */
export const mapCount = (id: number): number => (JSON.parse(mapContent(id)) as unknown[]).length;

/** Every program and map of the machine whose name is one of ours, as "prog 12 on_access". */
export function loaded(): Set<string> {
  const ours = /^(store_map|restore_map|data_map|copy_map|segment|ckpt.*|on_access|on_openat|probe.*)$/;
  const lines = (kind: 'prog' | 'map'): string[] =>
    list(kind, 'list')
      .filter(({ name, type }) => ours.test(name ?? '') || (kind === 'prog' && type === 'tracepoint'))
      .map((each) => lineOf(kind, each));
  return new Set([...lines('prog'), ...lines('map')]);
}

const lineOf = (kind: 'prog' | 'map', { id, name }: Listed): string => `${kind} ${id} ${name ?? ''}`;

/** What is loaded now, was not before, and is not this process's own; waits for the kernel, which frees things later. */
export async function leftSince(before: Set<string>): Promise<string[]> {
  const deadline = Date.now() + 10_000 * counts.patience;
  const { programs, maps } = held();
  const mine = new Set([...maps.map(({ id }) => id), ...programs.flatMap(({ map_ids }) => map_ids ?? [])]);
  const known = new Set([...before, ...programs.map((each) => lineOf('prog', each))]);
  const isMine = (line: string): boolean => mine.has(Number(/^map (\d+)/.exec(line)?.[1]));
  for (;;) {
    const left = [...loaded()].filter((line) => !known.has(line) && !isMine(line));
    if (left.length === 0 || Date.now() > deadline) return left;
    await sleep(100);
  }
}

/** Open descriptors of this process, each with what it is. */
export function descriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`).replace(/\[\d+\]/, '')];
    } catch {
      return []; // the descriptor of the listing itself
    }
  });
}

/** Attachments of programs that this process holds: each is a perf event, and ends with its descriptor. */
export function attachments(): number {
  return descriptors().filter((link) => link.includes('[perf_event]')).length;
}

/** Resident bytes of this process, but for V8's heap, which grows and shrinks as V8 likes. */
export function nativeRss(): number {
  const pages = readFileSync('/proc/self/statm', 'latin1').split(' ')[1];
  return Number(pages) * 4096 - process.memoryUsage().heapTotal;
}

/** Waits until a condition holds. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000 * counts.patience;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await sleep(5);
  }
}
