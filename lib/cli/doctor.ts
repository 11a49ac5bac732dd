// doctor.ts: `ebpf-ckpt doctor`: what this machine allows, line by line, and the exact thing that grants what is missing.

import { support, type Support } from '../index';
import type { Command, OptionValues } from './command';
import { paintFor, type Paint } from './terminal';

/** `no`: missing. `-`: done without. */
type State = 'ok' | 'no' | '-';

interface Line {
  name: string;
  state: State;
  text: string;
}

const walks: Record<Support['features']['walk'], string> = {
  iterator: 'in the kernel, by the VMA iterator',
  list: 'in the kernel, along the list of an old kernel',
  none: 'by user space, from /proc (in the kernel from 6.7 on, and before 6.1)',
};
const seccomps = ['none', 'strict', 'a filter is in force: it may block bpf() or perf_event_open()'];

const has = (there: boolean): State => (there ? 'ok' : 'no');
const bonus = (there: boolean): State => (there ? 'ok' : '-');

function writerLine({ features, lockdown, writer }: Support): Line {
  if (features.kernelWriter) return { name: 'writer', state: 'ok', text: `${writer}, and user space where asked for` };
  const reason = lockdown === 'none' || lockdown === 'unknown' ? `errno ${features.writerErrno}` : `lockdown is ${lockdown}`;
  return { name: 'writer', state: '-', text: `user space; bpf_probe_write_user is refused (${reason})` };
}

function kernelLines(facts: Support): Line[] {
  const { features } = facts;
  return [
    { name: 'kernel', state: 'ok', text: `${facts.release} ${facts.machine}` },
    { name: 'BTF', state: has(features.btf), text: '/sys/kernel/btf/vmlinux' },
    { name: 'BPF programs', state: has(features.bpf), text: features.bpf ? 'load' : `are refused (errno ${features.bpfErrno})` },
    { name: 'lockdown', state: facts.lockdown === 'confidentiality' ? 'no' : 'ok', text: facts.lockdown },
    { name: 'tracepoint ids', state: has(facts.tracepoints), text: `tracefs: ${facts.tracefs}` },
    { name: 'seccomp', state: facts.seccomp === 0 ? 'ok' : '-', text: seccomps[facts.seccomp] ?? String(facts.seccomp) },
  ];
}

function featureLines({ features }: Support): Line[] {
  return [
    { name: 'VMA walk', state: bonus(features.walk !== 'none'), text: walks[features.walk] },
    { name: 'mapping query', state: bonus(features.mappingQuery), text: 'PROCMAP_QUERY (6.11), else /proc/self/maps' },
    { name: 'page scan', state: bonus(features.pageScan), text: 'PAGEMAP_SCAN (6.7), else /proc/self/pagemap' },
    { name: 'populate', state: bonus(features.populate), text: 'MADV_POPULATE_WRITE (5.14), else page by page' },
    { name: 'atomics', state: bonus(features.fetchAndAdd), text: 'fetch-and-add (5.12), else one trigger at a time' },
  ];
}

function lines(facts: Support): Line[] {
  const capabilities = facts.capabilities.map(({ name, effective, neededFor }): Line => ({
    name,
    state: bonus(effective),
    text: neededFor,
  }));
  return [...kernelLines(facts), ...capabilities, writerLine(facts), ...featureLines(facts)];
}

function problemLines({ problems }: Support, paint: Paint): string[] {
  return problems.flatMap(({ code, message, fix, fatal }) => [
    '',
    `${fatal ? paint.bad('missing') : paint.bold('better with')}: ${message} ${paint.weak(`(${code})`)}`,
    ...fix.split('\n').map((line) => `    ${line || 'nothing grants it on this machine'}`),
  ]);
}

function print(facts: Support): void {
  const paint = paintFor(process.stdout);
  const colour: Record<State, (text: string) => string> = { ok: paint.good, no: paint.bad, '-': paint.weak };
  const rows = lines(facts);
  const width = Math.max(...rows.map(({ name }) => name.length));
  for (const { name, state, text } of rows) console.log(`${name.padEnd(width)}  ${colour[state](state.padEnd(2))}  ${text}`);
  for (const line of problemLines(facts, paint)) console.log(line);
  console.log(`\n${facts.ok ? paint.good('Checkpoints work here.') : paint.bad('Checkpoints do not work here.')}`);
}

async function run(values: OptionValues): Promise<number> {
  const facts = support();
  if (values['json'] === true) console.log(JSON.stringify(facts, undefined, 2));
  else print(facts);
  return facts.ok ? 0 : 1;
}

export const doctorCommand: Command = {
  name: 'doctor',
  summary: 'Tells what this machine can do and what to grant it; exit status 0 if checkpoints work',
  help: ['--json         the same facts as JSON'],
  options: { json: { type: 'boolean' } },
  run,
};
