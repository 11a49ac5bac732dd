// datapath.ts: how fast bytes move each way, in each layout, in bulk and page by page, beside a memcpy of the same bytes in the same rounds.
//
//   node --import tsx bench/datapath.ts [--size MiB] [--rounds N] [--json]

import { parseArgs } from 'node:util';
import { checkpointSync, configure, restoreSync, support, type CheckpointOptions } from 'ebpf-ckpt';

interface Figure {
  what: string;
  medianMs: number;
  GBps: number;
  /** 1: as fast as memcpy. */
  ofMemcpy: number;
}

const MIB = 1 << 20;
const SMALL = 64 << 10;
const SMALL_ROUNDS = 2000;

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '512' },
    rounds: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
  },
});
const bytes = Number(values.size) * MIB;
const rounds = Number(values.rounds);

const median = (numbers: readonly number[]): number => [...numbers].sort((a, b) => a - b)[numbers.length >> 1]!;

function timed(work: () => void): number {
  const start = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - start);
}

/** One way to capture and restore; each call moves everything once and returns nanoseconds for each step. */
function steps(region: Buffer): Map<string, () => number>[] {
  const paces: [string, Partial<CheckpointOptions>][] = [
    ['fast, bulk', {}],
    ['fast, page by page', { pagesPerTrigger: 1 }],
    ['seed, page by page', { layout: 'seed' }],
  ];
  return paces.map(([name, options]) => {
    const pace = options.pagesPerTrigger === undefined ? {} : { pagesPerTrigger: options.pagesPerTrigger };
    let ckpt = checkpointSync({ regions: region, ...options });
    const capture = (): number => {
      ckpt.dispose();
      return timed(() => (ckpt = checkpointSync({ regions: region, ...options })));
    };
    const restores = support().writers.map((writer): [string, () => number] => [
      `restore, ${name}, ${writer} writer`,
      () => timed(() => restoreSync(ckpt, { ...pace, writer })),
    ]);
    return new Map([[`capture, ${name}`, capture], ...restores]);
  });
}

/** Round by round everything once, so that what disturbs the machine disturbs all alike. */
function dataPath(): Figure[] {
  const region = Buffer.alloc(bytes, 1);
  const other = Buffer.alloc(bytes, 2);
  const all = new Map([['memcpy', () => timed(() => region.copy(other))], ...steps(region).flatMap((map) => [...map])]);
  const times = new Map([...all.keys()].map((what): [string, number[]] => [what, []]));
  for (let round = 0; round < rounds; round++) for (const [what, step] of all) times.get(what)!.push(step());
  const memcpy = median(times.get('memcpy')!);
  return [...times].map(([what, taken]) => {
    const ns = median(taken);
    return { what, medianMs: ns / 1e6, GBps: bytes / ns, ofMemcpy: memcpy / ns };
  });
}

/** Microseconds of checkpoint, restore and dispose of a little memory on a warm pool. */
function smallRoundTrip(): number {
  const region = Buffer.alloc(SMALL, 1);
  const times = Array.from({ length: SMALL_ROUNDS }, () =>
    timed(() => {
      const ckpt = checkpointSync({ regions: region });
      restoreSync(ckpt);
      ckpt.dispose();
    }),
  );
  return median(times) / 1e3;
}

configure({ poolBytes: 4 * bytes, detachAfterMs: 600_000, shrinkAfterMs: 600_000 });
const figures = dataPath();
const smallUs = smallRoundTrip();
if (values.json) {
  const { release, machine, writer } = support();
  console.log(JSON.stringify({ release, machine, writer, bytes, rounds, figures, smallRoundTripUs: smallUs }, undefined, 2));
} else {
  console.log(`${values.size} MiB, medians of ${rounds} rounds\n`);
  for (const { what, medianMs, GBps, ofMemcpy } of figures) {
    console.log(
      `${what.padEnd(42)} ${medianMs.toFixed(1).padStart(8)} ms ${GBps.toFixed(2).padStart(6)} GB/s  ${ofMemcpy.toFixed(3).padStart(6)} x memcpy`,
    );
  }
  console.log(`\ncheckpoint + restore + dispose of 64 KiB, warm: ${smallUs.toFixed(1)} us`);
}
