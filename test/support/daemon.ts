// daemon.ts: a daemon under test and the programs that it serves: started, listened to, ended, and nothing of them left.
//
// CKPT_TEST_TRACE=1 shows every event as it comes; a test that fails shows the last ones, and what the programs said.

import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { counts } from '../counts';
import { Child, type Ended } from './child';
import { leftSince, loaded } from './kernel';

const release = join(__dirname, '..', '..', 'build', 'Release');
const trace = process.env['CKPT_TEST_TRACE'] === '1';

/** The files of the bare protocol. */
export const protocolFiles = ['ready_to_checkpoint', 'checkpoint_complete', 'ready_to_restore', 'restore_complete'].map((name) =>
  join('/tmp', name),
);

/** An operation, as the daemon tells of it. */
export interface Told {
  pid: number;
  uid: number;
  kind: 'bare' | 'library';
  phase: 'checkpoint' | 'restore';
  name: string;
}

/** What comes with each event. */
export interface Events {
  ready: { pid: number; socket: string; writer: 'user' | 'kernel'; uids: number[] };
  held: Told & { why: string };
  armed: Told;
  planned: Told & { pages: number; bytes: number; mappings: number };
  progress: Told & { donePages: number; totalPages: number; doneBytes: number; totalBytes: number };
  /** A checkpoint has no writer. */
  done: Told & { pages: number; bytes: number; ms: number; writer: 'user' | 'kernel' | '' };
  failed: Told & { error: string; message: string };
  gone: { pid: number; freedBytes: number };
  warning: { message: string };
  totals: { clients: number; images: number; operations: number; heldBytes: number; pagesMoved: number };
  stopping: { why: string };
}

export type EventName = keyof Events;
export type DaemonEvent = { [Name in EventName]: { event: Name } & Events[Name] }[EventName];
type EventOf<Name extends EventName> = { event: Name } & Events[Name];

let folder: string | undefined;

/**
 * A folder that every user can read, with the programs in it: a checkout often lies where only its owner may look. Not in /tmp, which some of the
 * clients have for themselves.
 */
export function publicFolder(): string {
  if (folder !== undefined) return folder;
  const made = mkdtempSync('/var/tmp/ebpf-ckpt-test-');
  process.on('exit', () => {
    rmSync(made, { recursive: true, force: true });
  });
  for (const name of ['bare', 'hostile']) cpSync(join(release, name), join(made, name), { recursive: true });
  mkdirSync(join(made, 'library'));
  for (const name of ['lib', 'roundtrip', 'roundtrip-static', 'contexts']) {
    const from = join(release, name);
    if (existsSync(from)) cpSync(from, join(made, 'library', name), { recursive: true, verbatimSymlinks: true });
  }
  execFileSync('chmod', ['-R', 'a+rX', made]);
  return (folder = made);
}

/** The path of a program of test/native/bare. */
export const bare = (name: string): string => join(publicFolder(), 'bare', name);

/** The path of a program of test/native/hostile. */
export const hostile = (name: string): string => join(publicFolder(), 'hostile', name);

/** The path of a program that is linked with the C library. */
export const library = (name: string): string => join(publicFolder(), 'library', name);

/** The daemon itself. */
export const daemonPath = join(release, 'ebpf-ckpt-daemon');

/** Where the daemons of the tests listen. */
export const socketPath = (): string => join(publicFolder(), 'socket');

/** A command prefix: an unprivileged user with nothing else. */
export const asNobody: readonly string[] = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--inh-caps', '-all'];
export const nobody = 65534;

/** A command prefix: namespaces of its own with a /tmp of its own, as a container has. All in it ends with it. */
export function inContainer(...flags: readonly string[]): string[] {
  return ['unshare', '--kill-child', '--fork', '--mount', ...flags, 'sh', '-c', 'mount -t tmpfs tmpfs /tmp && exec "$@"', 'sh'];
}

const running = new Set<Child>();
const told = new Set<Daemon>();

/** A program that is ended after the test if it does not end before. */
export class Program extends Child {
  constructor(command: readonly string[], env: NodeJS.ProcessEnv = {}) {
    const [file, ...args] = command as [string, ...string[]];
    super(file, args, { EBPF_CKPT_SOCKET: socketPath(), LD_LIBRARY_PATH: library('lib'), ...env });
    running.add(this);
    void this.ended.then(() => running.delete(this));
  }

  get pid(): number {
    const { pid } = this.process;
    if (pid === undefined) throw new Error(`${this.process.spawnfile} could not be started`);
    return pid;
  }

  /** Kills it and waits for its end. */
  async kill(): Promise<void> {
    this.process.kill('SIGKILL');
    await this.ended;
  }
}

/** The state of a process as in /proc/PID/stat: R, S, T ...; Z also if it is gone. */
export function stateOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2)[0] ?? 'Z';
  } catch {
    return 'Z';
  }
}

/** Expects that a process is continued, and stays so. */
export async function expectContinued(pid: number): Promise<void> {
  const deadline = Date.now() + 5000 * counts.patience;
  while (stateOf(pid) === 'T' && Date.now() < deadline) await sleep(10);
  for (let looks = 0; looks < 5; looks++) {
    expect(stateOf(pid), `state of process ${pid}`).to.be.oneOf(['R', 'S', 'D']);
    await sleep(10);
  }
}

/** Every process that runs the daemon or one of the programs, as "12 seed T". */
export function strays(): string[] {
  const ours = [daemonPath, join(release, 'bare'), ...(folder === undefined ? [] : [folder])];
  return readdirSync('/proc').flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      const exe = readlinkSync(`/proc/${pid}/exe`);
      const state = stateOf(Number(pid));
      return state !== 'Z' && ours.some((path) => exe.startsWith(path)) ? [`${pid} ${basename(exe)} ${state}`] : [];
    } catch {
      return []; // a kernel thread, or gone
    }
  });
}

/** Kills what is left of the programs, and with `daemons` of these too. */
export function endStrays(daemons: boolean): void {
  for (const line of strays()) {
    if (!daemons && line.includes(basename(daemonPath))) continue;
    try {
      process.kill(parseInt(line), 'SIGKILL');
    } catch {
      // it has ended meanwhile
    }
  }
}

/** Removes the protocol's files, whatever lies in their place. */
export function removeFiles(): void {
  for (const file of protocolFiles) rmSync(file, { recursive: true, force: true });
}

export interface DaemonOptions {
  /** A command prefix to run it behind. */
  prefix?: readonly string[];
}

export class Daemon {
  readonly events: DaemonEvent[] = [];
  readonly program: Program;
  readonly #before: Set<string>;
  #rest = '';
  #wake: () => void = () => undefined;
  #ended = false;

  private constructor(args: readonly string[], { prefix = [] }: DaemonOptions) {
    this.#before = loaded();
    this.program = new Program([...prefix, daemonPath, 'serve', '--json', '--socket', socketPath(), ...args]);
    this.program.process.stdout.on('data', (data: Buffer) => this.#hear(data.toString()));
    void this.program.ended.then(() => {
      this.#ended = true;
      this.#wake();
    });
    told.add(this);
  }

  /** Starts it and waits until it serves. */
  static async start(args: readonly string[] = [], options: DaemonOptions = {}): Promise<Daemon> {
    const daemon = new Daemon(args, options);
    await daemon.wait('ready');
    return daemon;
  }

  get ready(): EventOf<'ready'> {
    return this.all('ready')[0]!;
  }

  #hear(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines) {
      if (trace) console.error(`    ${line}`);
      this.events.push(JSON.parse(line) as DaemonEvent);
    }
    this.#wake();
  }

  /** Events so far of a name whose fields match, from the one of a number on. */
  all<Name extends EventName>(name: Name, match: Partial<Events[Name]> = {}, from = 0): EventOf<Name>[] {
    const wanted = Object.entries(match);
    const fields = (event: DaemonEvent): Record<string, unknown> => event as unknown as Record<string, unknown>;
    const found = this.events.slice(from).filter((event) => event.event === name);
    return found.filter((event) => wanted.every(([field, value]) => fields(event)[field] === value)) as unknown as EventOf<Name>[];
  }

  /** Waits for the first such event. */
  async wait<Name extends EventName>(name: Name, match: Partial<Events[Name]> = {}, from = 0): Promise<EventOf<Name>> {
    await this.until(`${name} ${JSON.stringify(match)}`, () => this.all(name, match, from).length > 0);
    return this.all(name, match, from)[0]!;
  }

  /** Waits until something holds; looks at each event. */
  async until(what: string, holds: () => boolean, ms = 15_000 * counts.patience): Promise<void> {
    const end = Date.now() + ms;
    while (!holds()) {
      if (this.#ended) throw new Error(`the daemon ended before: ${what}\n${this.tail()}`);
      if (Date.now() > end) throw new Error(`the daemon did not tell: ${what}\n${this.tail()}`);
      const news = new Promise<void>((resolve) => (this.#wake = resolve));
      await Promise.race([news, sleep(Math.min(100, ms))]);
    }
  }

  /** The totals it told last. */
  totals(): Events['totals'] | undefined {
    return this.all('totals').at(-1);
  }

  /** Waits until it holds nothing and serves nobody. */
  async idle(): Promise<void> {
    await this.until('that it is idle', () => {
      const now = this.totals();
      return now === undefined || (now.clients === 0 && now.images === 0 && now.operations === 0 && now.heldBytes === 0);
    });
  }

  /** Its last events, without the figures between them, and what it said on stderr. */
  tail(count = 40): string {
    const steps = this.events.filter(({ event }) => event !== 'progress' && event !== 'totals');
    const lines = steps.slice(-count).map((event) => `    ${JSON.stringify(event)}`);
    return [...lines, this.program.stderr].join('\n');
  }

  /** Its own pid: another than that of `program` behind some prefixes. */
  get pid(): number {
    return this.program.pid;
  }

  /** Resident bytes. */
  rss(): number {
    return Number(readFileSync(`/proc/${this.pid}/statm`, 'latin1').split(' ')[1]) * 4096;
  }

  /** SIGTERM; expects that it ends well and leaves nothing. */
  async stop(): Promise<Ended> {
    this.program.process.kill('SIGTERM');
    const ended = await this.program.ended;
    expect([ended.status, ended.signal], this.tail()).to.deep.equal([0, null]);
    expect(this.events.map(({ event }) => event)).to.include('stopping');
    await this.expectNothingLeft();
    return ended;
  }

  /** SIGKILL; expects that nothing is left all the same. */
  async kill(): Promise<void> {
    await this.program.kill();
    await this.expectNothingLeft();
  }

  /** No daemon, no keeper, no client that is stopped, no program, no map. */
  async expectNothingLeft(): Promise<void> {
    const wrong = (): string[] => strays().filter((line) => line.includes(basename(daemonPath)) || line.endsWith(' T'));
    const end = Date.now() + 5000 * counts.patience;
    while (wrong().length > 0 && Date.now() < end) await sleep(20);
    expect(wrong(), 'processes left').to.deep.equal([]);
    expect(await leftSince(this.#before), 'programs and maps left').to.deep.equal([]);
    told.delete(this);
  }
}

/** For a describe(): each of its tests begins without files of the protocol, and its programs end with it. `daemon`: the one that lives through all tests. */
export function tidy(daemon?: () => Daemon | undefined): void {
  beforeEach(removeFiles);

  afterEach(async function () {
    if (this.currentTest?.state === 'failed') {
      for (const each of told) console.error(`  events:\n${each.tail()}`);
      for (const child of running)
        if (![...told].some(({ program }) => program === child))
          console.error(`  running: ${child.process.spawnargs.join(' ')}\n${child.stdout}${child.stderr}`);
    }
    const kept = daemon?.();
    for (const child of [...running]) {
      if (child === kept?.program) continue;
      child.process.kill('SIGKILL');
      await child.ended;
    }
    for (const each of [...told]) if (each !== kept) told.delete(each);
    endStrays(kept === undefined);
    removeFiles();
  });
}

/** For a describe(): one daemon for all its tests, ended well after the last. */
export function oneDaemon(...args: readonly string[]): () => Daemon {
  let daemon: Daemon | undefined;
  before(async () => {
    daemon = await Daemon.start(args);
  });
  after(async () => {
    await daemon?.stop();
  });
  tidy(() => daemon);
  return () => daemon!;
}

/** What a program said, line by line, without the numbers it may add. */
export const steps = (stdout: string): string[] =>
  stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.replace(/ \d+$/, ''));

/** Runs a program to its end; expects that it was right. */
export async function expectOk(command: readonly string[], env?: NodeJS.ProcessEnv): Promise<Ended & { pid: number }> {
  const program = new Program(command, env);
  const ended = await program.ended;
  expect([ended.status, ended.signal], `${command.join(' ')}\n${ended.stdout}${ended.stderr}`).to.deep.equal([0, null]);
  expect(ended.stdout.trimEnd().split('\n').at(-1)).to.equal('ok');
  return { ...ended, pid: program.pid };
}
