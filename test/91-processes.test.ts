// 91-processes: several processes at once do not see each other; one that is killed leaves nothing; namespaces change nothing.

import { expect } from 'chai';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkpointSync, restoreSync, trim } from 'ebpf-ckpt';
import { counts } from './counts';
import { copy, expectSame, fill, ruin } from './support/bytes';
import { Child, program, roundTrip } from './support/child';
import { leftSince, loaded } from './support/kernel';

/** Starts a process that checkpoints and restores without end, or so often, and waits until it is at it. */
async function cycler(...rounds: string[]): Promise<Child> {
  const child = new Child(process.execPath, [program('cycle'), ...rounds]);
  await child.says(/ready/);
  return child;
}

describe('processes', () => {
  it('two at once, and this one, each get their own bytes back', async () => {
    const children = await Promise.all([cycler('40'), cycler('40')]);
    const buffer = Buffer.alloc(200_000);
    for (let round = 0; round < 40; round++) {
      const expected = copy(fill(buffer, round));
      const ckpt = checkpointSync({ regions: buffer, layout: round % 2 ? 'fast' : 'seed' });
      ruin(buffer);
      await new Promise((resolve) => setImmediate(resolve));
      restoreSync(ckpt);
      expectSame(buffer, expected);
      ckpt.dispose();
    }
    for (const { ended } of children) {
      const { status, stderr } = await ended;
      expect(status, stderr).to.equal(0);
    }
  });

  it('one that ends leaves nothing loaded or attached', async () => {
    const before = loaded();
    const { status, stderr } = await (await cycler('3')).ended;
    expect(status, stderr).to.equal(0);
    expect(await leftSince(before)).to.deep.equal([]);
  });

  it('kill -9 at random moments leaves nothing loaded or attached', async () => {
    await trim();
    const before = loaded();
    for (let i = 0; i < counts.kills; i++) {
      const child = await cycler();
      const during = [...loaded()].filter((line) => !before.has(line));
      expect(during.length, 'what it has loaded is seen').to.be.greaterThan(2);
      await sleep(Math.random() * 30);
      child.process.kill('SIGKILL');
      expect((await child.ended).signal).to.equal('SIGKILL');
    }
    expect(await leftSince(before)).to.deep.equal([]);
  });

  it('kill -9 while it loads leaves nothing loaded or attached', async () => {
    const before = loaded();
    for (let i = 0; i < counts.kills; i++) {
      const child = new Child(process.execPath, [program('cycle')]);
      await sleep((40 + Math.random() * 100) * counts.patience);
      child.process.kill('SIGKILL');
      await child.ended;
    }
    expect(await leftSince(before)).to.deep.equal([]);
  });

  for (const [what, flags] of Object.entries({
    'a pid namespace': ['--pid', '--fork', '--mount-proc'],
    'a mount namespace': ['--mount'],
    'pid, mount, network, IPC and UTS namespaces': ['--pid', '--fork', '--mount-proc', '--mount', '--net', '--ipc', '--uts'],
  })) {
    it(`works inside ${what}`, async () => {
      const report = await roundTrip(['unshare', ...flags]);
      expect(report.code, report.message).to.equal(undefined);
      expect(report.ok).to.equal(true);
    });
  }

  it('works inside a pid namespace whose /proc is that of another', async () => {
    const report = await roundTrip(['unshare', '--pid', '--fork']);
    expect(report.code, report.message).to.equal(undefined);
    expect(report.ok).to.equal(true);
  });
});
