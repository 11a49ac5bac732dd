// 98-serve: the daemon itself: its command line, who may be served and how much, one for each namespace, and `run`.

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { checkpointSync, restoreSync, support } from 'ebpf-ckpt';
import { counts } from './counts';
import { copy, expectSame, fill, ruin } from './support/bytes';
import { program, roundTrip, run } from './support/child';
import {
  asNobody,
  bare,
  Daemon,
  daemonPath,
  endStrays,
  expectContinued,
  expectOk,
  nobody,
  oneDaemon,
  Program,
  publicFolder,
  removeFiles,
  socketPath,
  stateOf,
  strays,
  tidy,
} from './support/daemon';
import { leftSince, loaded, until } from './support/kernel';
import { writers } from './support/ways';

const MIB = 1 << 20;
const cli = join(__dirname, '..', 'dist', 'cli', 'main.js');
const seed = (...options: readonly string[]): string[] => [bare('seed'), '--limit', String(20 * counts.patience), ...options];

describe('serve: misuse', () => {
  tidy();

  for (const [what, args, words] of [
    ['no command', [], /command/i],
    ['an unknown command', ['sreve'], /sreve/],
    ['an unknown option', ['serve', '--jsno'], /--jsno/],
    ['a superfluous argument', ['serve', 'me'], /me/],
    ['a pace of no pages', ['serve', '--pages-per-trigger', '0'], /--pages-per-trigger/],
    ['a pace that is no number', ['serve', '--pages-per-trigger', 'many'], /--pages-per-trigger/],
    ['a writer there is not', ['serve', '--writer', 'ghost'], /--writer/],
    ['a user there is not', ['serve', '--allow-uid', 'no-such-user'], /--allow-uid/],
    ['a user beyond all users', ['serve', '--allow-uid', '4294967295'], /--allow-uid/],
    ['a negative ceiling', ['serve', '--max', '-1'], /--max/],
    ['a ceiling of nothing', ['serve', '--max-process', '0'], /--max-process/],
    ['no patience', ['serve', '--stall', '0'], /--stall/],
    ['a socket whose name is too long', ['serve', '--socket', `/tmp/${'s'.repeat(120)}`], /--socket/],
    ['nothing to run', ['run'], /program/i],
  ] as const)
    it(`refuses ${what}`, async () => {
      const { status, stdout, stderr } = await run(daemonPath, args);
      expect(status).to.equal(2);
      expect(stdout).to.equal('');
      expect(stderr).to.match(words);
    });

  it('names every option in its help', async () => {
    const { status, stdout } = await run(daemonPath, ['--help']);
    expect(status).to.equal(0);
    const options = 'socket allow-uid pages-per-trigger writer shared max-process max-uid max stall json quiet'.split(' ');
    for (const option of options) expect(stdout).to.include(`--${option}`);
  });

  it('refuses a user without privilege, says what is missing, and leaves nothing', async () => {
    const before = loaded();
    const copied = join(publicFolder(), 'ebpf-ckpt-daemon');
    execFileSync('cp', [daemonPath, copied]);
    const { status, stderr } = await new Program([...asNobody, copied, 'serve', '--socket', '/tmp/ebpf-ckpt-test-socket']).ended;
    expect(status).to.equal(1);
    expect(stderr).to.match(/\w+ \w+/);
    expect(await leftSince(before)).to.deep.equal([]);
    expect(strays()).to.deep.equal([]);
  });

  if (!writers.includes('kernel'))
    it('refuses the kernel writer where the kernel does not allow it, and says why', async () => {
      const { status, stderr } = await run(daemonPath, ['serve', '--socket', socketPath(), '--writer', 'kernel']);
      expect(status).to.equal(1);
      expect(stderr).to.match(/lockdown|bpf_probe_write_user/);
    });

  it('takes the writer that support() names', async () => {
    const daemon = await Daemon.start();
    expect(daemon.ready.writer).to.equal(support().writer);
    await daemon.stop();
  });
});

describe('serve: one daemon', () => {
  const daemon = oneDaemon();

  it('says who it is and whom it serves', () => {
    const { pid, socket, uids } = daemon().ready;
    expect([pid, socket, uids]).to.deep.equal([daemon().pid, socketPath(), [0]]);
  });

  it('refuses a second one by naming the first', async () => {
    const { status, stderr } = await run(daemonPath, ['serve', '--json', '--socket', join(publicFolder(), 'second')]);
    expect(status).to.equal(1);
    expect(stderr)
      .to.include(`process ${daemon().pid} `)
      .and.match(/Another daemon/);
    await expectOk(seed());
  });

  it('does not refuse one in another pid namespace', async () => {
    const second = new Program([
      ...['unshare', '--pid', '--fork', '--mount-proc', '--kill-child'],
      ...[daemonPath, 'serve', '--json', '--socket', join(publicFolder(), 'second')],
    ]);
    await second.says(/"ready"/);
    await expectOk(seed());
    await second.kill();
    await until('its daemon is gone', () => strays().filter((line) => line.includes('ebpf-ckpt-daemon')).length <= 2);
  });

  it('serves again after a client of 40 rounds as before the first, and has not grown', async () => {
    await expectOk(seed('--rounds', '10', '--remove', 'after'));
    await daemon().idle();
    const [rss, descriptors] = [daemon().rss(), fdsOf(daemon().pid)];
    for (let i = 0; i < 4; i++) await expectOk(seed('--rounds', '10'));
    await daemon().idle();
    await until('descriptors are closed', () => fdsOf(daemon().pid) <= descriptors);
    expect(daemon().rss() - rss).to.be.below(8 * MIB);
  });

  it('and the addon in another process do not see each other', async () => {
    const from = daemon().events.length;
    const client = new Program(seed('--rounds', '20'));
    const report = await roundTrip();
    expect([report.ok, report.code], report.message).to.deep.equal([true, undefined]);
    await client.ended;
    expect(client.stdout).to.match(/ok\n$/);
    const pids = new Set(
      daemon()
        .events.slice(from)
        .flatMap((event) => ('pid' in event ? [event.pid] : [])),
    );
    expect([...pids]).to.deep.equal([client.pid]);
  });

  it('and the addon in this process do not see each other, round after round', async () => {
    const client = new Program(seed('--rounds', '30'));
    const from = daemon().events.length;
    const buffer = Buffer.alloc(3 * MIB + 77);
    for (let i = 0; i < 50; i++) {
      const expected = copy(fill(buffer, i));
      const ckpt = checkpointSync({ regions: buffer, layout: i % 5 ? 'fast' : 'seed' });
      ruin(buffer);
      restoreSync(ckpt);
      expectSame(buffer, expected);
      ckpt.dispose();
      await new Promise((resolve) => setImmediate(resolve));
    }
    const { status, stdout } = await client.ended;
    expect(status, stdout).to.equal(0);
    expect(
      daemon()
        .events.slice(from)
        .filter((event) => 'pid' in event && event.pid === process.pid),
    ).to.deep.equal([]);
  });

  it('a Node process that the daemon does not know may be killed beside it', async () => {
    const cycler = new Program([process.execPath, program('cycle')]);
    await cycler.says(/ready/);
    await cycler.kill();
    await expectOk(seed());
  });
});

/** How many descriptors a process has. */
const fdsOf = (pid: number): number => Number(execFileSync('sh', ['-c', `ls /proc/${pid}/fd | wc -l`], { encoding: 'utf8' }));

describe('serve: who may', () => {
  const daemon = oneDaemon();

  it(`${counts.refused} processes of a user who is not served leave no trace`, async () => {
    await expectOk(seed());
    await daemon().idle();
    const [events, rss] = [daemon().events.length, daemon().rss()];
    await expectOk([bare('crowd'), String(counts.refused), String(nobody)]);
    await sleep(150); // totals come at most ten times a second
    expect(daemon().events.slice(events)).to.deep.equal([]);
    expect(daemon().rss() - rss).to.be.below(MIB);
    await expectOk(seed());
  });

  it('a user who is not served waits in vain, and is not stopped', async () => {
    const events = daemon().events.length;
    const client = new Program([...asNobody, bare('seed'), '--limit', String(counts.inVain)]);
    await client.says(/waited in vain/);
    expect((await client.ended).status).to.equal(1);
    expect(
      daemon()
        .events.slice(events)
        .filter((event) => 'pid' in event),
    ).to.deep.equal([]);
  });
});

describe('serve: who else may', () => {
  tidy();

  it('others are served once --allow-uid names them, by number or by name', async () => {
    const name = execFileSync('id', ['-nu', String(nobody)], { encoding: 'utf8' }).trim();
    for (const who of [String(nobody), name]) {
      const other = await Daemon.start(['--allow-uid', who]);
      expect([...other.ready.uids].sort((a, b) => a - b)).to.deep.equal([0, nobody]);
      await expectOk([...asNobody, ...seed()]);
      await other.stop();
    }
  });
});

describe('serve: ceilings', () => {
  tidy();

  /** Expects that a program of some MiB is refused by this option, that nothing is held for it, and that a small one is served. */
  async function expectCeiling(option: string, mib: number): Promise<void> {
    const daemon = await Daemon.start([option, String(mib)]);
    const client = new Program([bare('seed'), '--heap', String(2 * mib), '--limit', String(counts.inVain)]);
    await client.says(/waited in vain/);
    const { error, message, phase } = await daemon.wait('failed', { pid: client.pid });
    expect([error, phase]).to.deep.equal(['ENOSPC', 'checkpoint']);
    expect(message).to.include(option);
    await client.ended;
    await daemon.idle();
    removeFiles();
    await expectOk(seed('--heap', '0.1', '--bss', '0.1', '--mmap', '0.0625', '--shared', '0.0625'));
    await daemon.stop();
  }

  for (const option of ['--max-process', '--max-uid', '--max'])
    it(`${option}: a client that needs more fails with ENOSPC, and others are served`, async () => {
      await expectCeiling(option, 4);
    });

  for (const option of ['--max-uid', '--max'])
    it(`${option}: counts all clients together`, async () => {
      const daemon = await Daemon.start([option, '10']);
      const holders = [];
      for (let i = 0; i < 2; i++) {
        const holder = new Program(seed('--hold', '--heap', '0.1'));
        await holder.says(/saved/);
        holders.push(holder);
        removeFiles();
      }
      const third = new Program([bare('seed'), '--heap', '4', '--limit', String(counts.inVain)]);
      expect((await daemon.wait('failed', { pid: third.pid })).error).to.equal('ENOSPC');
      await third.ended;
      for (const holder of holders) await holder.kill();
      await daemon.idle();
      removeFiles();
      await expectOk(seed('--heap', '4'));
      await daemon.stop();
    });
});

describe('run', () => {
  tidy();

  /** Nothing of a daemon is left that the command started. */
  async function expectAlone(): Promise<void> {
    await until('nothing of it is left', () => strays().length === 0);
  }

  const ways: Record<string, readonly string[]> = {
    'ebpf-ckpt-daemon run': [daemonPath, 'run'],
    'ebpf-ckpt run': [process.execPath, cli, 'run'],
  };

  for (const [name, way] of Object.entries(ways)) {
    const start = (options: readonly string[], command: readonly string[]): Program =>
      new Program([...way, '--socket', socketPath(), ...options, '--', ...command]);

    it(`${name}: serves its program, whose output is its own`, async () => {
      const { status, stdout, stderr } = await start(['--pages-per-trigger', '16'], seed()).ended;
      expect(status, stderr).to.equal(0);
      expect(stdout).to.match(/^saved \d+\nruined\nrecovered \d+\nok\n$/);
      await expectAlone();
    });

    it(`${name}: passes on the exit status`, async () => {
      expect((await start([], ['sh', '-c', 'exit 7']).ended).status).to.equal(7);
      await expectAlone();
    });

    it(`${name}: ends by the signal that ended its program`, async () => {
      for (const signal of ['SIGKILL', 'SIGSEGV'] as const) {
        const { status, signal: got } = await start([], ['sh', '-c', `kill -${signal.slice(3)} $$`]).ended;
        expect([status, got]).to.deep.equal([null, signal]);
      }
      await expectAlone();
    });

    it(`${name}: passes signals on`, async () => {
      for (const signal of ['SIGTERM', 'SIGINT', 'SIGUSR1'] as const) {
        const script = `trap 'echo caught; exit 5' ${signal.slice(3)}; echo started; while :; do sleep 0.05; done`;
        const command = start([], ['sh', '-c', script]);
        await command.says(/started/);
        command.process.kill(signal);
        const { status, stdout } = await command.ended;
        expect([status, stdout]).to.deep.equal([5, 'started\ncaught\n']);
      }
      await expectAlone();
    });

    it(`${name}: says that there is no such program`, async () => {
      const { status, stderr } = await start([], ['/no/such/program']).ended;
      expect(status).to.equal(127);
      expect(stderr).to.include('/no/such/program');
      await expectAlone();
    });

    it(`${name}: uses the daemon that serves already, and leaves it`, async () => {
      const daemon = await Daemon.start();
      const { status, stderr } = await start([], seed()).ended;
      expect(status, stderr).to.equal(0);
      expect(daemon.all('done').map(({ phase }) => phase)).to.deep.equal(['checkpoint', 'restore']);
      await daemon.stop();
    });

    it(`${name}: killed, it leaves no daemon and nobody stopped`, async () => {
      const before = loaded();
      // It inherits our pipes: it gives up soon after.
      const command = start(['--pages-per-trigger', '1'], seed('--sleep', '2000', '--limit', String(2 * counts.patience)));
      await until('its daemon is there', () => strays().some((line) => line.includes('ebpf-ckpt-daemon')));
      await sleep(300 * counts.patience);
      await command.kill();
      await until('its daemon is gone', () => !strays().some((line) => line.includes('ebpf-ckpt-daemon')));
      expect(strays().filter((line) => line.endsWith(' T'))).to.deep.equal([]);
      endStrays(true);
      expect(await leftSince(before)).to.deep.equal([]);
    });
  }

  it('ebpf-ckpt serve: is the daemon', async () => {
    const server = new Program([process.execPath, cli, 'serve', '--json', '--socket', socketPath()]);
    await server.says(/"event":"ready"/);
    await expectOk(seed());
    server.process.kill('SIGTERM');
    const { status, stdout } = await server.ended;
    expect(status).to.equal(0);
    expect(stdout).to.match(/"event":"stopping"/);
    await expectAlone();
  });
});

describe('the keeper', () => {
  tidy();

  it('continues nobody whom the daemon did not stop', async () => {
    const daemon = await Daemon.start();
    const bystander = new Program(['sleep', '60']);
    bystander.process.kill('SIGSTOP');
    await until('it is stopped', () => stateOf(bystander.pid) === 'T');
    await daemon.kill();
    expect(stateOf(bystander.pid)).to.equal('T');
    await bystander.kill();
  });

  it('killed, it takes nobody with it that is not held', async () => {
    const daemon = await Daemon.start();
    const keeper = strays()
      .map((line) => parseInt(line))
      .filter((pid) => pid !== daemon.pid);
    expect(keeper).to.have.lengthOf(1);
    const client = new Program(seed('--hold'));
    await client.says(/saved/);
    process.kill(keeper[0]!, 'SIGKILL');
    await sleep(50);
    await expectContinued(client.pid);
  });

  it('leaves lock and socket to the next daemon', async () => {
    await (await Daemon.start()).kill();
    await (await Daemon.start()).stop();
  });
});
