// 97-library: C programs that are linked with the library: saved and recovered, told why not, and never left waiting.

import { expect } from 'chai';
import { counts } from './counts';
import { asNobody, bare, Daemon, expectOk, inContainer, library, nobody, oneDaemon, Program, removeFiles, tidy } from './support/daemon';
import { writers } from './support/ways';

const MIB = 1 << 20;

interface RoundTrip {
  ok: boolean;
  step?: string;
  errno?: string;
  text?: string;
  saveCalls: number;
  recoverCalls: number;
}

/** What the program `roundtrip` reports at its end. */
async function reportOf(program: Program): Promise<RoundTrip> {
  const { stdout, stderr, status, signal } = await program.ended;
  try {
    return JSON.parse(stdout) as RoundTrip;
  } catch {
    throw new Error(`roundtrip reported nothing, ended with ${status ?? signal}:\n${stdout}${stderr}`);
  }
}

/** Runs `roundtrip` on some MiB of heap and of mmap memory, behind a command; expects that it worked. */
async function expectRoundTrip(options: readonly string[] = [], prefix: readonly string[] = [], name = 'roundtrip'): Promise<RoundTrip> {
  const report = await reportOf(new Program([...prefix, library(name), '2', '2', ...options]));
  expect(report.ok, JSON.stringify(report)).to.equal(true);
  return report;
}

/** Runs a script of `contexts`; its lines, but for the sentences that follow errors. Expects that there is one. */
async function contexts(script: string, prefix: readonly string[] = []): Promise<string[]> {
  return linesOf(await new Program([...prefix, library('contexts'), script]).ended);
}

function linesOf({ stdout, stderr, status }: { stdout: string; stderr: string; status: number | null }): string[] {
  expect(status, stdout + stderr).to.equal(0);
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => {
      const [, outcome, same, words] = /^([^:]+: (?:ok|E[A-Z]+) heap=(\d+) data=\2 bss=\2)(?:: (.+))?$/.exec(line) ?? [];
      expect(outcome, line).to.be.a('string');
      if (!outcome!.includes(': ok ')) expect(words, line).to.match(/^[A-Z].* .*[^.]$/);
      return outcome!.replace(/heap.*/, same!);
    });
}

describe('library: misuse', () => {
  tidy();

  it('without a daemon every call says ENOTCONN', async () => {
    expect(await contexts('save; recover; forget')).to.deep.equal(['save: ENOTCONN 1', 'recover: ENOTCONN 2', 'forget: ENOTCONN 3']);
  });

  it('a user who is not served gets EPERM, and leaves nothing', async () => {
    const daemon = await Daemon.start();
    expect(await contexts('save; recover', asNobody)).to.deep.equal(['save: EPERM 1', 'recover: EPERM 2']);
    await daemon.idle();
    expect(daemon.all('armed')).to.deep.equal([]);
    await daemon.stop();
  });

  for (const option of ['--max-process', '--max-uid', '--max'])
    it(`${option}: a save beyond it says ENOSPC, and nothing is held`, async () => {
      const daemon = await Daemon.start([option, '1']);
      const program = new Program([library('roundtrip'), '2', '2']);
      const { ok, step, errno, text } = await reportOf(program);
      expect([ok, step, errno]).to.deep.equal([false, 'save', 'ENOSPC']);
      expect(text).to.include(option);
      expect((await daemon.wait('failed', { pid: program.pid })).error).to.equal('ENOSPC');
      await daemon.idle();
      expect(await contexts('save; recover')).to.deep.equal(['save: ok 1', 'recover: ok 1']);
      await daemon.stop();
    });
});

for (const writer of writers) {
  describe(`library, ${writer} writer`, () => {
    const daemon = oneDaemon('--writer', writer, '--allow-uid', String(nobody));

    it('what was not saved is ENOENT', async () => {
      expect(await contexts('recover; forget; recover a')).to.deep.equal(['recover: ENOENT 1', 'forget: ENOENT 2', 'recover a: ENOENT 3']);
    });

    it('contexts have names, and do not know each other', async () => {
      expect(await contexts('save a; save b; recover a; recover b; recover; forget a; recover a; recover b')).to.deep.equal([
        'save a: ok 1',
        'save b: ok 2',
        'recover a: ok 1',
        'recover b: ok 2',
        'recover: ENOENT 3',
        'forget a: ok 4',
        'recover a: ENOENT 5',
        'recover b: ok 2',
      ]);
    });

    it('a save takes the place of the one before, and a recover may come again and again', async () => {
      expect(await contexts('save; recover; recover; save; recover; recover')).to.deep.equal([
        'save: ok 1',
        'recover: ok 1',
        'recover: ok 1',
        'save: ok 2',
        'recover: ok 2',
        'recover: ok 2',
      ]);
    });

    it('a child made by fork() has none of the contexts of its parent, and may have its own', async () => {
      expect(await contexts('save a; fork; recover a; save a; recover a')).to.deep.equal([
        'save a: ok 1',
        'fork: ok 2',
        'recover a: ENOENT 3',
        'save a: ok 4',
        'recover a: ok 4',
      ]);
    });

    for (const name of ['roundtrip', 'roundtrip-static'])
      it(`${name}: every byte comes back, round after round`, async () => {
        const program = new Program([library(name), '8', '8', '--rounds', '3']);
        expect((await reportOf(program)).ok, program.stdout).to.equal(true);
        const done = daemon().all('done', { pid: program.pid });
        expect(done.map(({ kind, phase }) => `${kind} ${phase}`)).to.deep.equal([
          'library checkpoint',
          ...Array<string>(3).fill('library restore'),
        ]);
        expect(done.at(-1)?.writer).to.equal(writer);
        await daemon().idle();
      });

    it('shared memory, threads and a name go with it', async () => {
      await expectRoundTrip(['--shared', '--threads', '6', '--name', 'a name with "quotes"', '--rounds', '2']);
      expect(daemon().all('done').at(-1)?.name).to.equal('a name with "quotes"');
    });

    it('the pace is what was asked for, and progress is told trigger by trigger', async () => {
      const { saveCalls, recoverCalls } = await expectRoundTrip(['--pages-per-trigger', '16', '--rounds', '1']);
      const [save, restore] = daemon().all('done').slice(-2);
      expect(saveCalls).to.be.within(save!.pages / 16, save!.pages);
      expect(recoverCalls).to.be.within(restore!.pages / 16, restore!.pages);
    });

    it('works without any privilege', async () => {
      await expectRoundTrip([], asNobody);
      expect(daemon().all('done').at(-1)?.uid).to.equal(nobody);
    });

    it('works inside a container', async () => {
      await expectRoundTrip(['--rounds', '1'], inContainer('--pid', '--mount-proc', '--net', '--ipc', '--uts'));
    });
  });
}

describe('library: many', () => {
  const daemon = oneDaemon();

  it(`${counts.crowd} clients at once are all right, beside a bare one`, async () => {
    const rounds = 8;
    const script = ['save a', ...Array<string>(rounds).fill('save b; recover a; recover b')].join('; ');
    const seed = expectOk([bare('seed'), '--rounds', '5', '--limit', String(20 * counts.patience)]);
    const crowd = Array.from({ length: counts.crowd }, () => contexts(script));
    const expected = ['save a: ok 1', 'save b: ok 2', 'recover a: ok 1', 'recover b: ok 2'];
    for (const lines of await Promise.all(crowd)) {
      expect(lines.slice(0, 4)).to.deep.equal(expected);
      expect(lines.filter((line) => !line.includes(': ok '))).to.deep.equal([]);
      expect(lines).to.have.lengthOf(1 + 3 * rounds);
    }
    await seed;
    expect(daemon().all('failed')).to.deep.equal([]);
    await daemon().idle();
  });

  it('one that comes and goes a hundred times leaves nothing', async () => {
    const rss = daemon().rss();
    for (let i = 0; i < (counts.patience > 1 ? 5 : 100); i += 10)
      await Promise.all(Array.from({ length: counts.patience > 1 ? 1 : 10 }, () => contexts('save a; save b; recover a')));
    await daemon().idle();
    expect(daemon().rss() - rss).to.be.below(16 * MIB);
  });
});

/** What a program may be at when it or the daemon ends. */
const stages = [
  ['armed', 'checkpoint'],
  ['planned', 'checkpoint'],
  ['progress', 'checkpoint'],
  ['armed', 'restore'],
  ['planned', 'restore'],
  ['progress', 'restore'],
] as const;

/** Starts a program that goes page by page, and lets it come as far as a stage. */
async function slowUntil(daemon: Daemon, [event, phase]: (typeof stages)[number]): Promise<Program> {
  const program = new Program([library('roundtrip'), '1', '1', '--pages-per-trigger', phase === 'checkpoint' ? '1' : '4']);
  await daemon.wait(event, { pid: program.pid, phase });
  return program;
}

describe('library: killed', () => {
  const daemon = oneDaemon();

  for (const stage of stages)
    it(`once "${stage.join('" of the ')}" is told: what is held for it is freed`, async () => {
      const program = await slowUntil(daemon(), stage);
      await program.kill();
      await daemon().idle();
      if (stage[1] === 'restore') expect((await daemon().wait('gone', { pid: program.pid })).freedBytes).to.be.at.least(64 * MIB);
      expect(await contexts('save; recover')).to.deep.equal(['save: ok 1', 'recover: ok 1']);
    });
});

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  describe(`library: the daemon gets ${signal}`, () => {
    tidy();

    const end = (daemon: Daemon): Promise<unknown> => (signal === 'SIGKILL' ? daemon.kill() : daemon.stop());

    for (const stage of stages)
      it(`once "${stage.join('" of the ')}" is told: the client gets ECONNRESET`, async () => {
        const daemon = await Daemon.start();
        const program = await slowUntil(daemon, stage);
        await end(daemon);
        const { ok, step, errno } = await reportOf(program);
        expect([ok, step, errno]).to.deep.equal([false, stage[1] === 'restore' ? 'recover' : 'save', 'ECONNRESET']);
      });

    it('between two calls: the next says ECONNRESET, the one after that finds the next daemon', async () => {
      const daemon = await Daemon.start();
      const program = new Program([library('contexts'), 'save; pause; recover; save; pause; recover; save; recover']);
      await program.says(/save: ok/);
      await end(daemon);
      program.process.stdin.write('\n');
      await program.says(/save: ENOTCONN/);
      const next = await Daemon.start();
      program.process.stdin.write('\n');
      expect(linesOf(await program.ended)).to.deep.equal([
        'save: ok 1',
        'pause: ok 2',
        'recover: ECONNRESET 3',
        'save: ENOTCONN 4',
        'pause: ok 5',
        'recover: ENOENT 6',
        'save: ok 7',
        'recover: ok 7',
      ]);
      await next.stop();
      removeFiles();
    });
  });
}
