// 00-support: what the library says of this machine is true, and the ways that the other tests go are the ones it must have.

import { existsSync, readFileSync } from 'node:fs';
import { machine, release } from 'node:os';
import { expect } from 'chai';
import { checkpointSync, restoreSync, support } from 'ebpf-ckpt';
import { hasSwap } from './support/memory';
import { refused } from './support/refusal';
import { writers } from './support/ways';

const lockdownFile = '/sys/kernel/security/lockdown';

/** The writers there must be: told by the environment, else by the lockdown. */
function expectedWriters(): string[] {
  const told = process.env['EXPECT_WRITERS'];
  if (told !== undefined) return told.split(',').sort();
  return support().lockdown === 'none' ? ['kernel', 'user'] : ['user'];
}

describe('support()', () => {
  const facts = support();

  it('has swap to test with where it was promised', () => {
    expect(hasSwap || process.env['EXPECT_SWAP'] === undefined).to.equal(true);
  });

  it('says that checkpoints work here, or nothing below can be tested', () => {
    expect(facts.problems.filter(({ fatal }) => fatal)).to.deep.equal([]);
    expect(facts.ok).to.equal(true);
  });

  it('has exactly the writers that this kernel must allow', () => {
    expect([...writers].sort()).to.deep.equal(expectedWriters());
  });

  it("takes the kernel writer for 'auto' where there is one", () => {
    expect(facts.writer).to.equal(writers.includes('kernel') ? 'kernel' : 'user');
  });

  it('names the kernel and the machine', () => {
    expect(facts.release).to.equal(release());
    expect(facts.machine).to.equal(machine());
  });

  it('reads the lockdown as the kernel shows it', () => {
    expect(facts.lockdown).to.be.oneOf(['none', 'integrity', 'confidentiality', 'unknown']);
    if (existsSync(lockdownFile)) expect(readFileSync(lockdownFile, 'latin1')).to.include(`[${facts.lockdown}]`);
  });

  it('sees BTF where the kernel shows it', () => {
    expect(facts.features.btf).to.equal(existsSync('/sys/kernel/btf/vmlinux'));
  });

  it('has the kernel features that this version has', () => {
    const [major = 0, minor = 0] = release().split('.').map(Number);
    const since = (a: number, b: number): boolean => major > a || (major === a && minor >= b);
    expect(facts.features.bpf).to.equal(true);
    expect(facts.features.fetchAndAdd).to.equal(since(5, 12));
    expect(facts.features.populate).to.equal(since(5, 14));
    expect(facts.features.pageScan).to.equal(since(6, 7));
    expect(facts.features.mappingQuery).to.equal(since(6, 11));
    expect(facts.features.walk).to.equal(since(6, 7) ? 'iterator' : since(6, 1) ? 'none' : 'list');
  });

  it('tells which capabilities are in force', () => {
    const effective = BigInt(`0x${/^CapEff:\s*(\w+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'}`);
    const numbers: Record<string, bigint> = { CAP_SYS_ADMIN: 21n, CAP_PERFMON: 38n, CAP_BPF: 39n };
    for (const [name, number] of Object.entries(numbers)) {
      const told = facts.capabilities.find((capability) => capability.name === name);
      expect(told?.effective, name).to.equal(((effective >> number) & 1n) === 1n);
      expect(told?.neededFor, name).to.match(/\w+/);
    }
  });

  it('tells whether a seccomp filter is in force', () => {
    expect(String(facts.seccomp)).to.equal(/^Seccomp:\s*(\d)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1]);
  });

  for (const writer of writers) {
    it(`the ${writer} writer, asked for, is the one that is used`, () => {
      const region = Buffer.alloc(100, 1);
      const ckpt = checkpointSync({ regions: region });
      expect(restoreSync(ckpt, { writer }).writer).to.equal(writer);
      expect(restoreSync(ckpt, { writer: 'auto' }).writer).to.equal(facts.writer);
      ckpt.dispose();
    });
  }

  if (!writers.includes('kernel')) {
    it('the kernel writer, asked for where it is refused, is an error that names the reason', () => {
      const region = Buffer.alloc(100, 1);
      const ckpt = checkpointSync({ regions: region });
      region.fill(2);
      const { message } = refused('ERR_CKPT_LOCKDOWN', () => restoreSync(ckpt, { writer: 'kernel' }));
      expect(message).to.match(/lock(ed )?down/i);
      expect(region.equals(Buffer.alloc(100, 2)), 'nothing was written').to.equal(true);
      expect(ckpt.poisoned).to.equal(false);
      ckpt.dispose();
    });
  }
});
