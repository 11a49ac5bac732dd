// 99-hostile: clients that do what no ordinary one does: others are served all the same, nobody is left stopped, nothing leaks.

import { rmSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { counts } from './counts';
import { asNobody, bare, Daemon, expectOk, hostile, nobody, oneDaemon, Program, removeFiles, stateOf, steps, tidy } from './support/daemon';
import { loaded, leftSince, until } from './support/kernel';
import { writers } from './support/ways';

const MIB = 1 << 20;
const second = 1000 * counts.patience;
const stranger = 65533;
const asStranger = asNobody.map((word) => (word === String(nobody) ? String(stranger) : word));
const seed = (...options: readonly string[]): string[] => [bare('seed'), '--limit', String(20 * counts.patience), ...options];
const signals = ['SIGKILL', 'SIGTERM'] as const;

/** What a promise gives, if it does so in time. */
async function within<Value>(ms: number, what: string, promise: Promise<Value>): Promise<Value> {
  const timer = new AbortController();
  const late = sleep(ms, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`not within ${ms} ms: ${what}`);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
    late.catch(() => undefined);
  }
}

/** Lets a program go on that waits for a line. */
const nudge = (program: Program): unknown => program.process.stdin.write('\n');

/** Runs on to its end; expects that it found everything right. */
async function expectEnd(program: Program): Promise<void> {
  const { status, stdout, stderr } = await within(3 * second, 'its end', program.ended);
  expect(status, stdout + stderr).to.equal(0);
  expect(stdout).to.match(/(^|\n)ok\n$/);
}

/** Within a second none of them is stopped, and none is stopped again after that. */
async function expectNoneStopped(programs: readonly Program[]): Promise<void> {
  const stopped = (): number[] => programs.map(({ pid }) => pid).filter((pid) => stateOf(pid) === 'T');
  const end = Date.now() + second;
  while (stopped().length > 0 && Date.now() < end) await sleep(10);
  await sleep(50);
  expect(stopped(), 'processes left stopped').to.deep.equal([]);
}

/** It is stopped, and stays so for a while. */
async function expectStaysStopped(program: Program, ms: number): Promise<void> {
  const end = Date.now() + ms;
  while (Date.now() < end) {
    expect(stateOf(program.pid)).to.equal('T');
    await sleep(10);
  }
}

describe('hostile: a second connection of the same process', () => {
  const daemon = oneDaemon('--allow-uid', String(nobody));

  for (const [mode, said] of [
    ['save', 'save: EBUSY'],
    ['recover', 'recover: EBUSY'],
    ['forget', 'forget: EBUSY'],
    ['close', 'closed'],
  ] as const)
    it(`${mode} while the first recovers: it comes to its end, with its own bytes`, async () => {
      const client = new Program([...asNobody, hostile('second'), mode]);
      const [got] = await client.says(/^.*\n/);
      const other = new Program([hostile('saver'), '4', 'end']);
      await other.says(/save: ok/);
      nudge(client);
      await expectEnd(client);
      expect(got).to.equal(`${said}\n`);
      await other.kill();
      await daemon().idle();
    });

  it('closed while nothing is under way: what the first has saved stays', async () => {
    await expectEnd(new Program([...asNobody, hostile('second'), 'idle']));
    await daemon().idle();
  });
});

for (const writer of writers)
  describe(`hostile: shared memory, ${writer} writer`, () => {
    oneDaemon('--allow-uid', String(nobody), '--writer', writer);

    it("what a client may only read of another's is not rolled back", async () => {
      const owner = new Program([hostile('attached'), 'owner']);
      const [, id] = await owner.says(/segment (\d+)\n/);
      const reader = new Program([...asNobody, hostile('attached'), 'reader', id!]);
      await reader.says(/save: ok\n/);
      nudge(owner);
      await owner.says(/changed\n/);
      nudge(reader);
      await expectEnd(reader);
      expect(reader.stdout).to.match(/recover: \w+\n/);
      nudge(owner);
      await expectEnd(owner);
    });

    for (const pace of [0, 1])
      it(`saved alone and shared with a child since, pace ${pace}: the recover ends at once, and saves are not refused`, async () => {
        const client = new Program([hostile('shared'), String(pace)]);
        await expectEnd(client);
        expect(client.stdout).to.match(/^recover: (ok|E[A-Z]+)\n/);
      });
  });

describe('hostile: a marker of the bare protocol while the library saves', () => {
  tidy();

  for (const [name, where] of [
    ['touched', 'in memory'],
    ['untouched', 'in a page that nobody has touched'],
  ] as const)
    for (const [then, what] of [
      ['leaves', 'the connection closes'],
      ['stays', 'the save goes on'],
    ] as const)
      it(`its name ${where}, then ${what}: the daemon serves on`, async () => {
        const daemon = await Daemon.start();
        const client = new Program([hostile('mixed'), name, then]);
        await expectEnd(client);
        expect(daemon.all('planned', { kind: 'bare' })).to.deep.equal([]);
        removeFiles();
        const { pid } = await expectOk(seed());
        expect(daemon.all('done', { pid })).to.have.lengthOf(2);
        await daemon.stop();
      });
});

for (const signal of signals)
  describe(`hostile: the daemon gets ${signal}`, () => {
    tidy();

    /** Ends the daemon while these programs run; expects that none is left stopped. */
    async function expectAllGoOn(daemon: Daemon, programs: readonly Program[]): Promise<void> {
      daemon.program.process.kill(signal);
      await daemon.program.ended;
      await expectNoneStopped(programs);
      await daemon.expectNothingLeft();
    }

    it('while one is held whose marker was not in memory', async () => {
      const daemon = await Daemon.start();
      const first = new Program([bare('storm'), 'stall']);
      await first.says(/waiting/);
      await daemon.wait('armed', { pid: first.pid });
      const held = new Program(seed('--no-touch'));
      await daemon.wait('held', { pid: held.pid });
      await until('it is stopped', () => stateOf(held.pid) === 'T');
      await expectAllGoOn(daemon, [first, held]);
    });

    it('while one is held that came back at once', async () => {
      const daemon = await Daemon.start(['--pages-per-trigger', '1']);
      const slow = ['--sleep', '1000', '--heap', '0.1', '--bss', '0.1', '--mmap', '0.0625', '--shared', '0.0625'];
      const held = new Program([hostile('again')]);
      await daemon.wait('planned', { pid: held.pid });
      const other = new Program(seed(...slow));
      await daemon.wait('planned', { pid: other.pid });
      await daemon.wait('held', { pid: held.pid });
      await until('it is stopped', () => stateOf(held.pid) === 'T');
      await expectAllGoOn(daemon, [held, other]);
    });

    it('while some save over and over in one /tmp, at any moment', async () => {
      const before = loaded();
      for (let i = 0; i < 5; i++) {
        const daemon = await Daemon.start();
        const crowd = Array.from({ length: 2 }, () => new Program([hostile('again')]));
        for (const { pid } of crowd) await daemon.wait('done', { pid });
        await sleep(20 * Math.random());
        daemon.program.process.kill(signal);
        await daemon.program.ended;
        await expectNoneStopped(crowd);
        for (const program of crowd) await program.kill();
        removeFiles();
      }
      expect(await leftSince(before)).to.deep.equal([]);
    });

    it('while one is stopped whom the user stopped: it stays so', async () => {
      const daemon = await Daemon.start();
      const client = new Program(seed('--remove', 'never', '--hold'));
      await client.says(/saved/);
      await sleep(30);
      client.process.kill('SIGSTOP');
      await until('it is stopped', () => stateOf(client.pid) === 'T');
      daemon.program.process.kill(signal);
      await daemon.program.ended;
      await expectStaysStopped(client, 300);
      await client.kill();
      await daemon.expectNothingLeft();
    });
  });

describe('hostile: bare programs', () => {
  const daemon = oneDaemon('--stall', '1', '--writer', 'user', '--pages-per-trigger', '1');

  for (const [mode, what] of [
    ['directory', 'plants a directory in place of the completion file'],
    ['unmapped', 'unmaps what is to be restored, from another thread'],
  ] as const)
    it(`one that ${what}, half-way: the restore fails, and it is not left stopped`, async () => {
      const client = new Program([hostile('spoiler'), mode]);
      await client.says(/spoiled/);
      await daemon().wait('failed', { pid: client.pid, phase: 'restore' });
      await expectNoneStopped([client]);
      const { status, stdout } = await within(2 * second, 'its end', client.ended);
      expect([status, steps(stdout)]).to.deep.equal([0, ['saved', 'spoiled', 'gave up']]);
      if (mode === 'directory') {
        expect(statSync('/tmp/restore_complete').isDirectory()).to.equal(true);
        rmSync('/tmp/restore_complete', { recursive: true });
      }
    });
});

for (const pace of [[], ['--pages-per-trigger', '1']])
  describe(`hostile: ^Z, ${pace.join(' ') || 'any pace'}`, () => {
    const daemon = oneDaemon('--stall', '0.3', ...pace);

    it('one that stops once it is saved stays stopped, and the next is served', async () => {
      const client = new Program([hostile('stopper')]);
      await daemon().wait('done', { pid: client.pid });
      await sleep(50);
      await expectStaysStopped(client, 700);
      expect(client.stdout).to.equal('');
      removeFiles();
      await expectOk(seed('--heap', '0.1', '--bss', '0.1'));
      expect(stateOf(client.pid)).to.equal('T');
    });
  });

describe('hostile: one that opens the marker and looks once, for ever', () => {
  const daemon = oneDaemon('--stall', '1');

  it('does not keep another from being served', async () => {
    const first = new Program([hostile('once')]);
    await daemon().wait('armed', { pid: first.pid });
    const other = new Program(seed('--hold'));
    await within(2.9 * second, 'the save of the other', other.says(/saved/));
  });
});

describe('hostile: ceilings', () => {
  tidy();

  for (const option of ['--max', '--max-uid'])
    it(`${option} counts what is under way: of six that save 19 MiB at once three find room in 60`, async () => {
      const daemon = await Daemon.start([option, '60']);
      const savers = Array.from({ length: 6 }, () => new Program([hostile('saver'), '19', 'plan']));
      await within(2 * second, 'the six plans', Promise.all(savers.map((saver) => saver.says(/planned|save: E/))));
      savers.forEach(nudge);
      await within(2 * second, 'the six saves', Promise.all(savers.map((saver) => saver.says(/save: \w+/))));
      const outcomes = savers.map(({ stdout }) => /save: (\w+)/.exec(stdout)?.[1]).sort();
      await sleep(150); // totals come at most ten times a second
      expect(Math.max(...daemon.all('totals').map(({ heldBytes }) => heldBytes))).to.be.within(57 * MIB, 60 * MIB);
      expect(outcomes).to.deep.equal(['ENOSPC', 'ENOSPC', 'ENOSPC', 'ok', 'ok', 'ok']);
      expect(new Set(daemon.all('failed').map(({ error }) => error))).to.deep.equal(new Set(['ENOSPC']));
      for (const saver of savers) await saver.kill();
      await daemon.idle();
      await daemon.stop();
    });
});

describe('hostile: a flood', () => {
  oneDaemon();

  for (const [kind, what] of [
    ['requests', 'that send without end'],
    ['garbage', 'that send garbage and close'],
  ] as const)
    it(`eight ${what}, of a user who is not served: a client is served within a second`, async () => {
      const flood = new Program([...asStranger, hostile('flood'), String(1.5 * counts.patience), kind]);
      await flood.says(/floods/);
      await sleep(200);
      const client = new Program([hostile('saver'), '1', 'end']);
      const [, ms] = await within(2 * second, 'the save', client.says(/save: ok after (\d+) ms/));
      expect(Number(ms)).to.be.below(second);
      expect(stateOf(flood.pid), 'the flood is over').not.to.equal('Z');
      await flood.kill();
    });
});
