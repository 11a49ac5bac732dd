// 96-bare: programs that know nothing of us, only the files of the protocol: served in every dialect, one at a time, and to the byte.

import { setTimeout as sleep } from 'node:timers/promises';
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, lstatSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { counts } from './counts';
import {
  asNobody,
  bare,
  Daemon,
  expectContinued,
  expectOk,
  inContainer,
  nobody,
  oneDaemon,
  Program,
  protocolFiles,
  publicFolder,
  removeFiles,
  stateOf,
  steps,
  tidy,
} from './support/daemon';
import { until } from './support/kernel';
import { writers } from './support/ways';

const MIB = 1 << 20;
const round = ['saved', 'ruined', 'recovered', 'ok'];
const seed = (...options: readonly string[]): string[] => [bare('seed'), '--limit', String(20 * counts.patience), ...options];
const nothing = `${counts.inVain}`;

/** Every way in which the seed's program may be written. */
const dialects: Record<string, readonly string[]> = {
  'fopen() and a loop that spins': [],
  'open() with O_CREAT': ['--open', 'open'],
  'openat() with O_CREAT': ['--open', 'openat'],
  'names relative to /tmp': ['--open', 'relative'],
  'usleep() in the loop': ['--sleep', '300'],
  'usleep() in the loop, and open()': ['--sleep', '50', '--open', 'open'],
  'the marker removed before the wait': ['--remove', 'before'],
  'no file removed ever': ['--remove', 'never', '--rounds', '3', '--restores', '2'],
  'names in pages that nobody has touched': ['--no-touch'],
  'names in pages that nobody has touched, and open()': ['--no-touch', '--open', 'open'],
  'memory in [heap]': ['--heap', '0.1'],
  'three saves, and four restores of each': ['--rounds', '3', '--restores', '4'],
};

describe('bare programs: misuse', () => {
  const daemon = oneDaemon('--allow-uid', String(nobody), '--pages-per-trigger', '1');

  it('a restore without a checkpoint fails, is named, and writes nothing', async () => {
    const { stdout, pid } = await expectOk([bare('identity'), 'after-exec', nothing]);
    expect(stdout).to.include('nothing changed');
    expect(await daemon().wait('failed', { pid, phase: 'restore' })).to.deep.include({ kind: 'bare', error: 'ENOENT' });
  });

  it('directories in place of the completion files stay, and the checkpoint fails', async () => {
    const { pid } = await expectOk([bare('early'), 'directories', nothing]);
    expect((await daemon().wait('failed', { pid })).message).to.match(/completion file/);
  });

  it('fifos in place of the completion files stay, and the checkpoint fails', async () => {
    const { pid } = await expectOk([bare('early'), 'fifos', nothing]);
    expect((await daemon().wait('failed', { pid })).message).to.match(/completion file/);
  });

  it('a program that makes the completion file itself, half way, is served as ever afterwards', async () => {
    expect(steps((await expectOk([bare('early'), 'cheats', nothing])).stdout)).to.deep.equal(['looked done', ...round]);
  });

  it('completion files that were there before mean nothing', async () => {
    await expectOk([bare('early'), 'makes', nothing]);
  });

  it('markers removed at once are enough', async () => {
    await expectOk([bare('early'), 'removes', nothing]);
  });

  it('symlinks in place of the completion files are removed, and nothing is written where they point', async () => {
    const victim = join(publicFolder(), 'victim');
    writeFileSync(victim, 'precious', { mode: 0o666 });
    const before = statSync(victim, { bigint: true });
    await expectOk([bare('early'), 'links', nothing, victim]);
    const after = statSync(victim, { bigint: true });
    expect(readFileSync(victim, 'latin1')).to.equal('precious');
    expect([after.ino, after.uid, after.mode, after.mtimeNs]).to.deep.equal([before.ino, before.uid, before.mode, before.mtimeNs]);
  });

  it("a user's symlink that is planted later does not make the daemon create what it points to", async () => {
    const victim = '/run/ebpf-ckpt-victim';
    await expectOk([...asNobody, bare('early'), 'dangles', nothing, victim]);
    const made = existsSync(victim);
    rmSync(victim, { force: true });
    expect(made).to.equal(false);
  });

  it(`markers opened ${counts.storm} times for nothing neither hold the program nor fill the daemon`, async () => {
    const [events, rss] = [daemon().events.length, daemon().rss()];
    expect(steps((await expectOk([bare('storm'), String(counts.storm)])).stdout)).to.deep.equal([`opened ${counts.storm} times`, ...round]);
    expect(daemon().events.length - events).to.be.below(2000 + 0.01 * counts.storm);
    expect(daemon().rss() - rss).to.be.below(16 * MIB);
    await daemon().idle();
  });

  it('a program that arms and ends at once leaves nothing', async () => {
    for (let i = 0; i < 10; i++) expect((await new Program([bare('storm'), 'exit']).ended).status).to.equal(0);
    await daemon().idle();
    await expectOk(seed());
  });
});

for (const writer of writers) {
  describe(`bare programs, ${writer} writer`, () => {
    const daemon = oneDaemon('--writer', writer, '--allow-uid', String(nobody));

    it('is the writer that the daemon says it is', () => {
      expect(daemon().ready.writer).to.equal(writer);
    });

    for (const [what, options] of Object.entries(dialects)) {
      it(`are served: ${what}`, async () => {
        const { stdout, pid } = await expectOk(seed(...options));
        expect(steps(stdout).slice(0, 3)).to.deep.equal(round.slice(0, 3));
        const done = daemon().all('done', { pid });
        expect(done.map(({ kind, uid }) => `${kind} ${uid}`)).to.deep.equal(done.map(() => 'bare 0'));
        expect(done.filter(({ phase }) => phase === 'restore').every((event) => event.writer === writer)).to.equal(true);
        expect(daemon().all('failed', { pid })).to.deep.equal([]);
      });
    }

    it('are served without any privilege', async () => {
      const { pid } = await expectOk([...asNobody, ...seed()]);
      expect((await daemon().wait('done', { pid, phase: 'restore' })).uid).to.equal(nobody);
    });

    it(`have ${counts.bssMiB} MiB of .bss rolled back, and are told how much it was`, async () => {
      const { pid } = await expectOk(seed('--bss', String(counts.bssMiB), '--heap', '8', '--mmap', '8', '--shared', '8'));
      const [save, restore] = daemon().all('done', { pid });
      expect([save?.phase, restore?.phase]).to.deep.equal(['checkpoint', 'restore']);
      expect(save?.bytes).to.be.within((counts.bssMiB + 24) * MIB, (counts.bssMiB + 24 + 16) * MIB);
      expect(restore?.bytes).to.be.at.least(save!.bytes);
    });

    it('have threads that compute and threads that wait, and these are undisturbed', async () => {
      const { stdout } = await expectOk([bare('threads'), '2', '4', '3']);
      expect(steps(stdout)).to.deep.equal([...Array<string[]>(3).fill(round.slice(0, 3)).flat(), 'ok']);
    });

    it('may have 60 threads', async () => {
      await expectOk([bare('threads'), '4', '56', '1']);
    });

    it('fork before the checkpoint: the child keeps its memory, and what both share is left alone', async () => {
      expect((await expectOk([bare('forker'), 'before', 'now'])).stdout).to.include('child undisturbed');
    });

    it('fork between checkpoint and restore: the child keeps its memory, and what both share is left alone', async () => {
      expect((await expectOk([bare('forker'), 'between', 'now'])).stdout).to.include('child undisturbed');
    });

    it('keep what they mapped since', async () => {
      expect((await expectOk([bare('layout'), 'mapped'])).stdout).to.include('protection rw-p');
    });

    for (const [what, mode] of [
      ['unmapped', 'unmapped'],
      ['unmapped in part', 'shrunk'],
      ['made read-only', 'protected'],
      ['made inaccessible', 'closed'],
    ] as const)
      it(`have memory back that they ${what} since, to be used as before`, async () => {
        expect((await expectOk([bare('layout'), mode])).stdout).to.include('protection rw-p');
      });

    it('have back what malloc() gave back to the kernel since, again and again, and go on with it', async () => {
      const { stdout, pid } = await expectOk([bare('freer'), '3', String(Math.min(counts.bssMiB, 150))]);
      expect(steps(stdout)).to.deep.equal(['saved', ...Array<string[]>(3).fill(['given back', 'recovered']).flat(), 'ok']);
      expect(daemon().all('failed', { pid })).to.deep.equal([]);
    });

    for (const [what, mode, why] of [
      ['unmapped a file', 'file', /no longer mapped/],
      ['unmapped shared memory', 'shared', /no longer mapped/],
      ['mapped something else in the place of memory', 'taken', /not what was mapped/],
    ] as const)
      it(`are refused the restore if they ${what} since, and no byte changes`, async () => {
        const { stdout, pid } = await expectOk([bare('layout'), mode, nothing]);
        expect(stdout).to.include('nothing changed');
        const failed = await daemon().wait('failed', { pid });
        expect(failed).to.deep.include({ phase: 'restore', error: 'EFAULT' });
        expect(failed.message).to.match(why);
      });

    for (const mode of ['born', 'ended']) {
      it(`are refused the restore if a thread was ${mode} since, and no byte changes`, async () => {
        const { stdout, pid } = await expectOk([bare('threads'), mode, nothing]);
        expect(stdout).to.include('nothing changed');
        expect(await daemon().wait('failed', { pid })).to.deep.include({ phase: 'restore', error: 'EBUSY' });
      });
    }
  });
}

describe('bare programs: shared memory by choice', () => {
  const daemon = oneDaemon('--shared');

  for (const when of ['before', 'between'])
    it(`with --shared, what a child forked ${when} shares is rolled back for both`, async () => {
      const { pid } = await expectOk([bare('forker'), when, 'then']);
      expect(daemon().all('failed', { pid })).to.deep.equal([]);
    });
});

describe('bare programs: pace', () => {
  const daemon = oneDaemon('--pages-per-trigger', '1');

  it('is one page for each look at the file, and progress is told on the way', async () => {
    const { stdout, pid } = await expectOk(seed('--sleep', '200', '--bss', '0.25', '--heap', '0.25', '--mmap', '0.25', '--shared', '0.25'));
    for (const [phase, word] of [
      ['checkpoint', 'saved'],
      ['restore', 'recovered'],
    ] as const) {
      const planned = await daemon().wait('planned', { pid, phase });
      const progress = daemon().all('progress', { pid, phase });
      const looks = Number(new RegExp(`${word} (\\d+)`).exec(stdout)?.[1]);
      expect(planned.pages).to.be.at.least(256);
      expect(looks).to.be.at.least(planned.pages);
      expect(progress.length).to.be.at.least(planned.pages / 10);
      expect(progress.every((event, i) => event.donePages >= (progress[i - 1]?.donePages ?? 0))).to.equal(true);
      const { pages, bytes } = await daemon().wait('done', { pid, phase });
      expect([pages, bytes]).to.deep.equal([progress.at(-1)?.totalPages, progress.at(-1)?.totalBytes]);
      expect(progress.at(-1)).to.deep.include({ donePages: pages, doneBytes: bytes });
    }
  });
});

describe('bare programs: files', () => {
  const daemon = oneDaemon('--allow-uid', String(nobody));

  it('are made for the client: its user, its group, and nobody else reads them', async () => {
    const program = new Program([...asNobody, ...seed('--remove', 'never', '--hold')]);
    await program.says(/saved/);
    const { uid, gid, mode, size, nlink } = lstatSync('/tmp/checkpoint_complete');
    expect({ uid, gid, mode, size, nlink }).to.deep.equal({ uid: nobody, gid: nobody, mode: 0o100600, size: 0, nlink: 1 });
    program.process.stdin.end('\n');
    expect((await program.ended).status, program.stdout).to.equal(0);
    expect(lstatSync('/tmp/restore_complete').uid).to.equal(nobody);
  });

  /** Nothing of the protocol has come into our own /tmp, and the daemon has done both phases. */
  async function expectElsewhere(command: readonly string[], from = daemon().events.length): Promise<void> {
    await expectOk(command);
    expect(protocolFiles.filter((file) => existsSync(file))).to.deep.equal([]);
    expect(
      daemon()
        .all('done', {}, from)
        .map(({ phase }) => phase),
    ).to.deep.equal(['checkpoint', 'restore']);
  }

  for (const [what, flags] of Object.entries({
    'a mount namespace': [],
    'pid and mount namespaces': ['--pid', '--mount-proc'],
    'pid, mount, network, IPC and UTS namespaces': ['--pid', '--mount-proc', '--net', '--ipc', '--uts'],
    'pid and mount namespaces with the /proc of another': ['--pid'],
    'user, pid and mount namespaces': ['--user', '--map-root-user', '--pid'],
  }))
    it(`are those of the client's own /tmp inside ${what}`, async () => {
      await expectElsewhere([...inContainer(...flags), ...seed('--remove', 'never')]);
    });

  it("are those of the client's own /tmp inside a chroot", async () => {
    const root = join(publicFolder(), 'root');
    mkdirSync(join(root, 'tmp'), { recursive: true });
    const libraries = execFileSync('ldd', [bare('seed')], { encoding: 'latin1' }).match(/\/\S+/g)!;
    for (const file of libraries) cpSync(file, join(root, file), { dereference: true });
    cpSync(bare('seed'), join(root, 'seed'));
    execFileSync('chmod', ['1777', join(root, 'tmp')]);
    await expectElsewhere(['chroot', root, '/seed', '--remove', 'never']);
    expect(lstatSync(join(root, 'tmp', 'restore_complete')).isFile()).to.equal(true);
  });

  it("are not reached through a symlink that leads out of the client's root", async () => {
    const root = join(publicFolder(), 'tricky');
    cpSync(join(publicFolder(), 'root'), root, { recursive: true });
    rmSync(join(root, 'tmp'), { recursive: true });
    mkdirSync(join(root, 'elsewhere'), { mode: 0o777 });
    execFileSync('ln', ['-s', '/elsewhere', join(root, 'tmp')]);
    await expectElsewhere(['chroot', root, '/seed', '--remove', 'never']);
    expect(existsSync(join(root, 'elsewhere', 'restore_complete'))).to.equal(true);
    expect(existsSync('/elsewhere')).to.equal(false);
  });
});

describe('bare programs: many', () => {
  const daemon = oneDaemon('--allow-uid', String(nobody), '--stall', String(counts.stall));

  it(`${counts.crowd} that share a /tmp are served one at a time, and all are right`, async () => {
    const from = daemon().events.length;
    const all = Object.values(dialects).filter((options) => !options.includes('never'));
    const crowd = Array.from({ length: counts.crowd }, (_, i) => expectOk(seed('--limit', '60', ...all[i % all.length]!)));
    await Promise.all(crowd);
    let served: string | undefined;
    for (const event of daemon().events.slice(from)) {
      if (event.event === 'planned') {
        expect(served, JSON.stringify(event)).to.equal(undefined);
        served = `${event.pid} ${event.phase}`;
      } else if (event.event === 'done') {
        expect(`${event.pid} ${event.phase}`).to.equal(served);
        served = undefined;
      }
    }
    expect(daemon().all('held', {}, from).length).to.be.above(0);
    expect(daemon().all('failed', {}, from)).to.deep.equal([]);
    await daemon().idle();
  });

  it('one that waits for another is stopped meanwhile, and told why', async () => {
    const first = new Program([bare('storm'), 'stall']);
    await first.says(/waiting/);
    await daemon().wait('armed', { pid: first.pid });
    const second = new Program(seed());
    expect((await daemon().wait('held', { pid: second.pid })).why).to.match(/\w+ \w+/);
    expect(stateOf(second.pid)).to.equal('T');
    await second.ended;
    expect(second.stdout).to.match(/ok\n$/);
  });

  it('one that never looks again does not keep others waiting for long', async () => {
    const first = new Program([bare('storm'), 'stall']);
    await first.says(/waiting/);
    await expectOk(seed());
    await daemon().wait('failed', { pid: first.pid });
    await expectContinued(first.pid);
    first.process.stdin.end('\n');
    expect(steps((await first.ended).stdout)).to.deep.equal(['waiting', ...round]);
  });

  it('one that asks for a restore and never looks again may be restored later', async () => {
    const first = new Program([bare('storm'), 'mute']);
    await first.says(/waiting/);
    await expectOk(seed());
    first.process.stdin.end('\n');
    expect((await first.ended).status, first.stdout).to.equal(0);
  });

  it('those with a /tmp of their own do not wait for each other', async () => {
    const first = new Program([...inContainer(), bare('storm'), 'stall']);
    await first.says(/waiting/);
    const { pid } = await expectOk(seed());
    expect(daemon().all('held', { pid })).to.deep.equal([]);
    expect(daemon().all('failed')).to.satisfy((failed: { pid: number }[]) => failed.every((event) => event.pid !== pid));
  });
});

describe('bare programs: who they are', () => {
  const daemon = oneDaemon('--allow-uid', String(nobody));

  it('the same at both calls: memory comes back', async () => {
    await expectOk([bare('identity'), 'none', nothing]);
  });

  /** Whether the program may be told that there is nothing to restore: one that is not dumpable is told nothing at all. */
  const modes: [mode: string, told: boolean, what: string][] = [
    ['setuid', false, 'setuid()'],
    ['setgid', false, 'setgid()'],
    ['seteuid', false, 'seteuid()'],
    ['dumpable', false, 'prctl(PR_SET_DUMPABLE, 0)'],
    ['setuid+', true, 'setuid(), and dumpable again'],
    ['setgid+', true, 'setgid(), and dumpable again'],
    ['seteuid+', true, 'seteuid(), and dumpable again'],
    ['caps', true, 'dropping capabilities'],
    ['exec', true, 'executing itself'],
    ['exec-thread', true, 'executing itself from another thread'],
  ];
  for (const [mode, isTold, what] of modes)
    it(`${what} in between: no byte is written, and ${isTold ? 'the restore fails' : 'nobody is served'}`, async () => {
      const { stdout, pid } = await expectOk([bare('identity'), mode, nothing]);
      expect(stdout).to.include('nothing changed');
      expect(
        daemon()
          .all('done', { pid })
          .map(({ phase }) => phase),
      ).to.deep.equal(['checkpoint']);
      expect(
        daemon()
          .all('failed', { pid })
          .map(({ phase, error }) => `${phase} ${error}`),
      ).to.deep.equal(isTold ? ['restore ENOENT'] : []);
      await daemon().idle();
    });

  it('fork() in between: no byte of the child is written', async () => {
    const from = daemon().events.length;
    expect((await expectOk([bare('identity'), 'fork', nothing])).stdout).to.include('nothing changed');
    expect(
      daemon()
        .all('done', {}, from)
        .map(({ phase }) => phase),
    ).to.deep.equal(['checkpoint']);
    await daemon().idle();
  });

  it('executing a setuid program in between: no byte is written, and the program is not served', async () => {
    const other = join(publicFolder(), 'bare', 'identity-setuid');
    cpSync(bare('identity'), other);
    execFileSync('chmod', ['4755', other]);
    const { stdout, pid } = await expectOk([...asNobody, bare('identity'), 'exec', nothing, other]);
    expect(stdout).to.include('executed as 0').and.include('nothing changed');
    expect(
      daemon()
        .all('armed', { pid })
        .map(({ phase }) => phase),
    ).to.deep.equal(['checkpoint']);
  });

  it('another with the same pid: no byte is written, and it is served as itself', async () => {
    const from = daemon().events.length;
    const { stdout } = await expectOk([bare('reuse'), nothing, String(counts.reuses)]);
    expect(stdout.match(/nothing changed/g)).to.have.lengthOf(counts.reuses);
    const pids = daemon()
      .all('done', { phase: 'restore' }, from)
      .map(({ pid }) => pid);
    expect(pids).to.have.lengthOf(counts.reuses);
    await daemon().idle();
  });
});

/** The steps of a round at which something may end, slow enough to catch each. */
const slow = ['--pages-per-trigger', '1'];
const slowSeed = (): string[] => seed('--sleep', '500', '--heap', '0.25', '--bss', '0.25', '--mmap', '0.25', '--shared', '0.25', '--hold');
const stages = [
  ['armed', 'checkpoint'],
  ['planned', 'checkpoint'],
  ['progress', 'checkpoint'],
  ['done', 'checkpoint'],
  ['armed', 'restore'],
  ['planned', 'restore'],
  ['progress', 'restore'],
  ['done', 'restore'],
] as const;

/** Starts a program and lets it come as far as a stage. */
async function slowUntil(daemon: Daemon, [event, phase]: (typeof stages)[number]): Promise<Program> {
  const program = new Program(slowSeed());
  program.process.stdin.write('\n');
  await daemon.wait(event, { pid: program.pid, phase });
  return program;
}

describe('bare programs: killed', () => {
  const daemon = oneDaemon(...slow);

  for (const stage of stages)
    it(`once "${stage.join('" of the ')}" is told: their image is freed, and the next is served`, async () => {
      const program = await slowUntil(daemon(), stage);
      await program.kill();
      await daemon().idle();
      if (stage[1] === 'restore') expect((await daemon().wait('gone', { pid: program.pid })).freedBytes).to.be.at.least(MIB);
      removeFiles();
      await expectOk(seed('--heap', '0.1', '--bss', '0.1'));
    });

  it('while they are held: the next is served', async () => {
    const first = await slowUntil(daemon(), ['planned', 'checkpoint']);
    const second = new Program(slowSeed());
    await daemon().wait('held', { pid: second.pid });
    await second.kill();
    await first.kill();
    removeFiles();
    await expectOk(seed('--heap', '0.1', '--bss', '0.1'));
    await daemon().idle();
  });
});

/** It runs on, and stays so. After SIGTERM it may also be through: a restore that has begun is carried to its end. */
async function expectGoesOn(program: Program, signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
  if (signal === 'SIGKILL') return expectContinued(program.pid);
  for (let looks = 0; looks < 5; looks++) {
    const state = stateOf(program.pid);
    if (state === 'Z') return void expect((await program.ended).status).to.equal(0);
    expect(state).to.be.oneOf(['R', 'S', 'D']);
    await sleep(10);
  }
}

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  describe(`bare programs: the daemon gets ${signal}`, () => {
    tidy();

    const end = (daemon: Daemon): Promise<unknown> => (signal === 'SIGKILL' ? daemon.kill() : daemon.stop());

    for (const stage of stages)
      it(`once "${stage.join('" of the ')}" is told: the program goes on`, async () => {
        const daemon = await Daemon.start(slow);
        const program = await slowUntil(daemon, stage);
        await end(daemon);
        await until('it goes on or has ended', () => stateOf(program.pid) !== 'T');
        if (stage.join() !== 'done,restore') await expectGoesOn(program, signal);
      });

    it('while another is held: both go on, and the next daemon serves', async () => {
      const daemon = await Daemon.start(slow);
      const first = await slowUntil(daemon, ['planned', 'checkpoint']);
      const second = new Program(slowSeed());
      await daemon.wait('held', { pid: second.pid });
      await until('it is stopped', () => stateOf(second.pid) === 'T');
      await end(daemon);
      await expectContinued(first.pid);
      await expectContinued(second.pid);
      await first.kill();
      await second.kill();
      removeFiles();
      const next = await Daemon.start();
      await expectOk(seed());
      await next.stop();
    });

    it('before anybody came: nothing is left', async () => {
      await end(await Daemon.start());
    });
  });
}
