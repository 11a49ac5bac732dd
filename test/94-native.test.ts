// 94-native: what lies below the API, tried by programs of its own: the daemon's BPF object, another process's memory, the C library.

import { join } from 'node:path';
import { expect } from 'chai';
import { Child, type Ended } from './support/child';

/** What each program tries; each prints a line "ok NAME" or "not ok NAME: why" for every case. */
const programs = {
  'serve-bpf': "the daemon's BPF object: who is served, held, bound and ended, and what moves",
  rollback: "another process's memory: what is rolled back, and what is left alone",
  inject: 'system calls that a process is made to make, and its layout put back',
  'daemon-parts': "the daemon's parts: loop, reports, completion files, lock, keeper, notifications",
  'library-test': 'the C library against a peer that does everything wrong',
} as const;
/** A case less is a case that was lost. */
const leastCases: Record<keyof typeof programs, number> = {
  'serve-bpf': 38,
  rollback: 110,
  inject: 150,
  'daemon-parts': 30,
  'library-test': 29,
};

describe('native', () => {
  const start = (name: string): Promise<Ended> => new Child(join(__dirname, '..', 'build', 'Release', name), []).ended;
  /** These mostly wait, and need nothing of the machine but processes of their own: they run beside the others. */
  const aside = new Map<string, Promise<Ended>>();

  before(() => {
    for (const name of ['library-test', 'inject']) aside.set(name, start(name));
  });

  for (const [name, what] of Object.entries(programs) as [keyof typeof programs, string][])
    it(what, async function () {
      this.timeout(300_000);
      const { status, signal, stdout, stderr } = await (aside.get(name) ?? start(name));
      const wrong = stdout.split('\n').filter((line) => line.startsWith('not ok'));
      expect(wrong, stderr).to.deep.equal([]);
      expect([status, signal], stdout + stderr).to.deep.equal([0, null]);
      expect(stdout.match(/^ok /gm)?.length, stdout).to.be.at.least(leastCases[name]);
    });
});
