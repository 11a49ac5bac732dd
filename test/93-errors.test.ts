// 93-errors: what stands in the way is named: a full tracepoint, a missing capability, a second copy, no build.

import { copyFileSync, cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { CheckpointError, checkpointSync, restoreSync, stats, trim } from 'ebpf-ckpt';
import { Child, roundTrip, run, type RoundTrip } from './support/child';
import { refused } from './support/refusal';

const root = join(__dirname, '..');
/** Debian's kernels know a level that closes perf_event_open() even to CAP_PERFMON. */
const paranoid = Number(readFileSync('/proc/sys/kernel/perf_event_paranoid', 'latin1')) > 2;

/** A command prefix that runs what follows without some capabilities. */
const without = (...names: string[]): string[] => [
  'setpriv',
  '--bounding-set',
  names.map((name) => `-${name}`).join(','),
  '--inh-caps',
  '-all',
];

/** ... as an unprivileged user who has just these. */
function unprivilegedWith(...names: string[]): string[] {
  const set = ['-all', ...names.map((name) => `+${name}`)].join(',');
  const user = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];
  return ['setpriv', ...user, '--inh-caps', set, '--ambient-caps', set, '--bounding-set', set];
}

/** A command prefix that runs what follows in a mount namespace of its own, after a shell command. */
const inMountNamespace = (setup: string): string[] => ['unshare', '--mount', 'sh', '-c', `${setup}; exec "$@"`, 'sh'];
const noTracefs = inMountNamespace('for m in tracing debug; do mountpoint -q /sys/kernel/$m && umount -l /sys/kernel/$m; done; true');
const withTracefs = inMountNamespace('mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing');

/** Expects that nothing works for the reason given, that doctor's facts say the same, and say how to grant it. */
function expectRefused({ ok, works, code, message, problems }: RoundTrip, expected: string, words: RegExp): void {
  expect([ok, works, code], message).to.deep.equal([false, false, expected]);
  expect(message).to.match(words);
  const fatal = problems.find((problem) => problem.fatal && problem.code === expected);
  expect(fatal?.message).to.match(words);
  expect(fatal?.fix).to.match(/\w+/);
}

function expectWorks({ ok, works, code, message }: RoundTrip): void {
  expect([ok, works, code], message).to.deep.equal([true, true, undefined]);
}

describe('errors', () => {
  it('are of one class with a stable code', () => {
    const error = refused('ERR_CKPT_NOT_YET', () => (checkpointSync as () => unknown)());
    expect(error).to.be.instanceOf(Error);
    expect(Object.prototype.toString.call(error)).to.equal('[object Error]');
    expect(error.stack).to.include('93-errors').and.include('CheckpointError');
    expect(new CheckpointError('ERR_CKPT_BUSY', 'words').address).to.equal(undefined);
  });

  it('tell a missing capability by name: CAP_BPF', async () => {
    expectRefused(await roundTrip(without('bpf', 'sys_admin')), 'ERR_CKPT_CAPABILITY', /CAP_BPF(?! and)/);
  });

  it('tell a missing capability by name: CAP_PERFMON', async () => {
    expectRefused(await roundTrip(without('perfmon', 'sys_admin')), 'ERR_CKPT_CAPABILITY', /CAP_PERFMON/);
  });

  it('tell an unprivileged user both', async () => {
    expectRefused(await roundTrip(unprivilegedWith()), 'ERR_CKPT_CAPABILITY', /CAP_BPF.*CAP_PERFMON/);
  });

  it('tell that tracepoint ids cannot be reached without tracefs and CAP_SYS_ADMIN', async () => {
    const report = await roundTrip([...noTracefs, ...without('sys_admin')]);
    expectRefused(report, 'ERR_CKPT_TRACEPOINT', /tracefs/);
  });

  it('tell that tracepoint ids are closed to a user who has the other capabilities', async () => {
    const report = await roundTrip([...withTracefs, ...unprivilegedWith('bpf', 'perfmon')]);
    expectRefused(report, 'ERR_CKPT_TRACEPOINT', /tracefs|tracepoint/);
  });

  it('tell that the kernel shows no BTF', async () => {
    expectRefused(await roundTrip(inMountNamespace('mount -t tmpfs tmpfs /sys/kernel/btf')), 'ERR_CKPT_NO_BTF', /btf/);
  });

  it('do not come where no tracefs is mounted and CAP_SYS_ADMIN is there', async () => {
    expectWorks(await roundTrip(noTracefs));
  });

  it('do not come for an unprivileged user with the capabilities that doctor asks for', async () => {
    const three = ['bpf', 'perfmon', 'dac_read_search'];
    const report = await roundTrip([...withTracefs, ...unprivilegedWith(...three)]);
    if (!paranoid) {
      expectWorks(report);
      expect([report.writers, report.writer]).to.deep.equal([['user'], 'user']);
    } else {
      expectRefused(report, 'ERR_CKPT_CAPABILITY', /perf_event_paranoid/);
      expectWorks(await roundTrip([...withTracefs, ...unprivilegedWith(...three, 'sys_admin')]));
    }
  });

  it('say how many programs are attached where a tracepoint is full, leave nothing, and pass when it is not', async () => {
    await trim();
    const crowd = new Child(join(root, 'build', 'Release', 'attach-many'), ['sys_enter_access']);
    await crowd.says(/full/);
    const region = Buffer.alloc(5000, 1);
    const { message } = refused('ERR_CKPT_BUSY', () => checkpointSync({ regions: region }));
    expect(message).to.include('64').and.include('sys_enter_access');
    expect(stats()).to.deep.include({ attached: false, operations: 0 });
    crowd.process.stdin.end();
    expect((await crowd.ended).status).to.equal(0);
    const ckpt = checkpointSync({ regions: region });
    region.fill(2);
    restoreSync(ckpt);
    expect(region.every((byte) => byte === 1)).to.equal(true);
    ckpt.dispose();
  });

  it('refuse a second copy of the addon by its name', () => {
    checkpointSync({ regions: Buffer.alloc(10) }).dispose();
    const first = /\/.*ebpf[_-]ckpt\.node$/m.exec(readFileSync('/proc/self/maps', 'latin1'))?.[0];
    const folder = mkdtempSync(join(tmpdir(), 'ebpf-ckpt-test-'));
    const second = join(folder, 'ebpf_ckpt.node');
    try {
      copyFileSync(first!, second);
      // eslint-disable-next-line @typescript-eslint/no-require-imports -- an addon can only be required
      const load = (): unknown => (require(second) as { stats: () => unknown }).stats();
      expect(load).to.throw(first).with.property('code', 'ERR_CKPT_SECOND_COPY');
    } finally {
      rmSync(folder, { recursive: true });
    }
    const region = Buffer.alloc(10, 1);
    const ckpt = checkpointSync({ regions: region });
    region.fill(2);
    restoreSync(ckpt);
    expect(region[5]).to.equal(1);
    ckpt.dispose();
  });

  /** What the program `core-errors` prints for a case: codes of the errors that came of it. */
  const fromCore = async (name: string): Promise<string> => {
    const { stdout, stderr } = await run(join(root, 'build', 'Release', 'core-errors'), [name]);
    return stdout.trimEnd() || stderr;
  };

  it('refuse a child made by fork(), and not its parent', async () => {
    expect(await fromCore('forked')).to.equal('ERR_CKPT_FORKED, parent: none');
  });

  it('say that nothing moves where the programs were detached by somebody else', async () => {
    expect(await fromCore('detached')).to.equal('ERR_CKPT_NO_PROGRESS');
  });

  it('know a checkpoint only in its own thread, and none that never was', async () => {
    expect(await fromCore('unknown')).to.equal('ERR_CKPT_UNKNOWN ERR_CKPT_UNKNOWN ERR_CKPT_UNKNOWN none ERR_CKPT_DISPOSED');
  });

  it('are not needed for a marker that is nearly right: it is not answered, though it carries our tag', async () => {
    expect(await fromCore('markers')).to.equal('+-------');
  });

  it('refuse the 65th operation at once, and no later one', async () => {
    expect(await fromCore('crowded')).to.equal('ERR_CKPT_BUSY, then: none');
  });

  it('say how to build the addon where there is none', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ebpf-ckpt-test-'));
    try {
      for (const part of ['dist', 'package.json']) cpSync(join(root, part), join(folder, part), { recursive: true });
      symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
      const script = 'try { require(process.argv[1]) } catch (error) { console.log(error.name, error.code, error.message) }';
      const { stdout, stderr } = await run(process.execPath, ['-e', script, join(folder, 'dist', 'index.js')]);
      expect(stdout, stderr).to.include('CheckpointError ERR_CKPT_NO_ADDON').and.include('npm run build').and.include(folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
