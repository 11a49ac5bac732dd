// demo.ts: `ebpf-ckpt demo`: the command around the demonstration: its options, what it prints, its exit status.

import { demonstrateC, type CDemoReport } from './c-demonstration';
import { UsageError, type Command, type OptionValues } from './command';
import { demonstrate, type DemoReport, type DemoView } from './demonstration';
import { ProgressBar } from './progress-bar';
import { paintFor } from './terminal';

const DEFAULT_MIB = 256;
const MIN_MIB = 4; // the C program has its bytes in several places
const MAX_MIB = 16384;

/** A view that prints lines, and bars where there is a terminal. */
function printingView(stream: NodeJS.WriteStream): DemoView {
  return {
    phase(label) {
      const bar = new ProgressBar(stream, label.padEnd(28));
      return { update: (done, total) => bar.update(done, total), finish: (outcome) => bar.finish(outcome) };
    },
  };
}

const silentView: DemoView = { phase: () => ({ update: () => undefined, finish: () => undefined }) };

function table({ figures, memcpyGBps }: DemoReport, c: CDemoReport): string[] {
  const row = (name: string, rate: number): string =>
    `  ${name.padEnd(24)} ${rate.toFixed(2).padStart(6)} GB/s  ${(rate / memcpyGBps).toFixed(2).padStart(5)} x memcpy`;
  return [
    row('checkpoint, bulk', figures.bulk.checkpointGBps),
    row('restore, bulk', figures.bulk.restoreGBps),
    row('checkpoint, page by page', figures.pageByPage.checkpointGBps),
    row('restore, page by page', figures.pageByPage.restoreGBps),
    row('C program, save', c.figures.saveGBps),
    row('C program, recover', c.figures.recoverGBps),
    row('memcpy', memcpyGBps),
  ];
}

function print(report: DemoReport, c: CDemoReport): void {
  const paint = paintFor(process.stdout);
  const checks = [...report.checks, ...c.checks];
  const failed = checks.filter(({ ok }) => !ok);
  console.log(`\nwriter: ${report.writer}`);
  for (const line of table(report, c)) console.log(line);
  for (const { what } of failed) console.log(`${paint.bad('FAILED')}: ${what}`);
  if (failed.length === 0)
    console.log(paint.good(`\nEvery byte came back, and both programs went on from there (${checks.length} checks).`));
}

function sizeOf(values: OptionValues): number {
  const text = values['size'];
  if (text === undefined) return DEFAULT_MIB;
  const mib = Number(text);
  if (Number.isInteger(mib) && mib >= MIN_MIB && mib <= MAX_MIB) return mib;
  throw new UsageError(`Expected --size to be a whole number of MiB from ${MIN_MIB} to ${MAX_MIB}`);
}

async function run(values: OptionValues): Promise<number> {
  const mib = sizeOf(values);
  const json = values['json'] === true;
  const view = json ? silentView : printingView(process.stdout);
  const report = demonstrate(mib, view);
  const c = await demonstrateC(mib, view);
  const ok = report.ok && c.ok;
  if (json) console.log(JSON.stringify({ ...report, ok, c }, undefined, 2));
  else print(report, c);
  return ok ? 0 : 1;
}

export const demoCommand: Command = {
  name: 'demo',
  summary: 'Checkpoints, ruins and restores Buffers, a WebAssembly program and a C program, and checks every byte',
  help: [`--size MiB     how much memory each has (default ${DEFAULT_MIB})`, '--json         the outcome as JSON'],
  options: { json: { type: 'boolean' }, size: { type: 'string' } },
  run,
};
