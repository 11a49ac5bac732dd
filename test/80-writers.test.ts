// 80-writers: both writers bring back pages in every state that memory can be in by then; captures read pages that are not there.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { checkpointSync, restoreSync } from 'ebpf-ckpt';
import { copy, expectSame, fill, ruin } from './support/bytes';
import { program, run } from './support/child';
import {
  freeMappings,
  hasSwap,
  Mapping,
  memtool,
  NONE,
  PAGE,
  pageState,
  protectionAt,
  READ,
  READ_WRITE,
  type Holder,
} from './support/memory';
import { refused } from './support/refusal';
import { eachWay } from './support/ways';

const PAGES = 6;
const BYTES = PAGES * PAGE;

describe('pages that cannot be had', () => {
  afterEach(freeMappings);

  eachWay(({ layout, writer }) => {
    it('PROT_NONE at the checkpoint: refused, with the address', () => {
      const mapping = Mapping.private(BYTES);
      fill(mapping.view, 1);
      mapping.protect(NONE, 2 * PAGE, PAGE);
      const { address } = refused('ERR_CKPT_UNREADABLE', () => checkpointSync({ regions: mapping.view, layout }));
      expect(address).to.equal(mapping.address + 2 * PAGE);
    });

    it('unmapped at the checkpoint: refused, with the address', () => {
      const mapping = Mapping.private(BYTES);
      fill(mapping.view, 1);
      mapping.unmap(3 * PAGE, PAGE);
      const { address } = refused('ERR_CKPT_UNMAPPED', () => checkpointSync({ regions: mapping.view, layout }));
      expect(address).to.equal(mapping.address + 3 * PAGE);
    });

    it('unmapped since: refused, with the address, and nothing else is changed', () => {
      const mapping = Mapping.private(BYTES);
      fill(mapping.view, 1);
      const ckpt = checkpointSync({ regions: mapping.view, layout });
      ruin(mapping.view);
      const head = copy(mapping.at(0, 3 * PAGE));
      mapping.unmap(3 * PAGE, PAGE);
      const { address } = refused('ERR_CKPT_UNMAPPED', () => restoreSync(ckpt, { writer }));
      expect(address).to.equal(mapping.address + 3 * PAGE);
      expectSame(mapping.at(0, 3 * PAGE), head);
      expect(ckpt.poisoned).to.equal(false);
      ckpt.dispose();
    });

    it('of a file that may not be written: refused at the restore, with the address', () => {
      withFile(BYTES, (file, content) => {
        const mapping = Mapping.readOnlyFile(file, BYTES);
        const ckpt = checkpointSync({ regions: mapping.view, layout });
        const { address } = refused('ERR_CKPT_UNWRITABLE', () => restoreSync(ckpt, { writer }));
        expect(address).to.be.within(mapping.address, mapping.address + BYTES - 1);
        expectSame(mapping.view, content);
        ckpt.dispose();
      });
    });

    for (const shared of [false, true]) {
      it(`of a ${shared ? 'shared' : 'private'} mapping whose file was cut off since: refused, and the process lives`, async () => {
        // A child of its own: the fault would end the process.
        const args = [program('cut-off'), layout, writer, String(shared)];
        const { stdout, stderr, signal } = await run(process.execPath, args);
        expect(signal, stderr).to.equal(null);
        const report = JSON.parse(stdout) as { code?: string; offset?: number };
        expect(report.code).to.be.oneOf(['ERR_CKPT_UNWRITABLE', 'ERR_CKPT_UNREADABLE', 'ERR_CKPT_UNMAPPED']);
        expect(report.offset).to.be.within(PAGE, BYTES - 1);
      });
    }

    it('beyond the end of the mapped file: refused, with the address', () => {
      withFile(PAGE, (file) => {
        const short = Mapping.file(file, 3 * PAGE);
        const { address } = refused('ERR_CKPT_UNREADABLE', () => checkpointSync({ regions: short.view, layout }));
        expect(address).to.equal(short.address + PAGE);
      });
    });
  });
});

describe('pages in every state', () => {
  afterEach(freeMappings);

  eachWay(({ layout, writer }) => {
    /** Checkpoints filled memory, does something to it, restores, and compares. */
    function expectBack(mapping: Mapping, change: () => void, done: () => void = () => undefined): void {
      const expected = copy(fill(mapping.view, 1));
      const ckpt = checkpointSync({ regions: mapping.at(5, BYTES - 10), layout });
      ruin(mapping.view);
      change();
      restoreSync(ckpt, { writer });
      done();
      expectSame(mapping.at(5, BYTES - 10), expected.subarray(5, BYTES - 5));
      expect(ckpt.poisoned).to.equal(false);
      ckpt.dispose();
    }

    it('written since', () => {
      expectBack(Mapping.private(BYTES), () => undefined);
    });

    it('given back since: absent', () => {
      const mapping = Mapping.private(BYTES);
      expectBack(mapping, () => {
        mapping.drop();
        expect(pageState(mapping.address)).to.equal('absent');
      });
    });

    it('given back and read since: the zero page', () => {
      const mapping = Mapping.private(BYTES);
      expectBack(mapping, () => {
        mapping.drop();
        for (let page = 0; page < PAGES; page++) expect(mapping.view[page * PAGE]).to.equal(0);
        expect(pageState(mapping.address)).to.equal('shared');
      });
    });

    it('shared with a forked child since: copy-on-write, and the child keeps its own bytes', () => {
      const mapping = Mapping.private(BYTES);
      let holder: Holder | undefined;
      expectBack(mapping, () => {
        holder = mapping.hold();
        expect(pageState(mapping.address)).to.equal('shared');
      });
      expect(holder?.release()).to.equal(true);
    });

    it('read-only since, and read-only they stay', () => {
      const mapping = Mapping.private(BYTES);
      expectBack(
        mapping,
        () => mapping.protect(READ),
        () => expect(protectionAt(mapping.address)).to.equal('r--p'),
      );
    });

    it('PROT_NONE since, and PROT_NONE they stay', () => {
      const mapping = Mapping.private(BYTES);
      expectBack(
        mapping,
        () => mapping.protect(NONE),
        () => {
          expect(protectionAt(mapping.address)).to.equal('---p');
          mapping.protect(READ_WRITE);
        },
      );
    });

    it('each page protected in another way since', () => {
      const mapping = Mapping.private(BYTES);
      expectBack(
        mapping,
        () => [NONE, READ, READ_WRITE, READ, NONE, READ].forEach((prot, page) => mapping.protect(prot, page * PAGE, PAGE)),
        () => {
          const protections = Array.from({ length: PAGES }, (_, page) => protectionAt(mapping.address + page * PAGE));
          expect(protections).to.deep.equal(['---p', 'r--p', 'rw-p', 'r--p', '---p', 'r--p']);
          mapping.protect(READ_WRITE);
        },
      );
    });

    it('read-only, absent and to become zeros', () => {
      const mapping = Mapping.private(BYTES);
      mapping.view[0] = 1;
      const ckpt = checkpointSync({ regions: mapping.view, layout });
      fill(mapping.view, 3);
      mapping.protect(READ);
      restoreSync(ckpt, { writer });
      expectSame(mapping.view, new Uint8Array(BYTES).fill(1, 0, 1));
      expect(protectionAt(mapping.address)).to.equal('r--p');
      ckpt.dispose();
    });

    it('shared memory, dropped from our page table since', () => {
      const mapping = Mapping.shared(BYTES);
      expectBack(mapping, () => {
        mapping.drop();
        expect(pageState(mapping.address)).to.equal('absent');
      });
    });

    it('at the checkpoint: shared memory that only another process has written', () => {
      const mapping = Mapping.shared(BYTES);
      memtool.fillElsewhere(mapping.address, BYTES, 0x42);
      expect(pageState(mapping.address)).to.equal('absent');
      const ckpt = checkpointSync({ regions: mapping.view, layout });
      mapping.view.fill(0);
      restoreSync(ckpt, { writer });
      expectSame(mapping.view, new Uint8Array(BYTES).fill(0x42));
      ckpt.dispose();
    });

    it('at the checkpoint: shared memory never touched, written by another process since', () => {
      const mapping = Mapping.shared(BYTES);
      const ckpt = checkpointSync({ regions: mapping.view, layout });
      memtool.fillElsewhere(mapping.address, BYTES, 0x42);
      restoreSync(ckpt, { writer });
      expectSame(mapping.view, new Uint8Array(BYTES));
      ckpt.dispose();
    });

    it('at the checkpoint: pages of a private file mapping not read yet', () => {
      withFile(BYTES, (file, content) => {
        const mapping = Mapping.file(file, BYTES);
        mapping.view[2 * PAGE + 1] = 0;
        expect(pageState(mapping.address + 4 * PAGE)).to.equal('absent');
        const expected = copy(content);
        expected[2 * PAGE + 1] = 0;
        const ckpt = checkpointSync({ regions: mapping.view, layout });
        ruin(mapping.view);
        restoreSync(ckpt, { writer });
        expectSame(mapping.view, expected);
        ckpt.dispose();
      });
    });

    it('at the checkpoint: shared with a forked child, and with the zero page', () => {
      const mapping = Mapping.private(BYTES);
      fill(mapping.at(0, 3 * PAGE), 2);
      expect(mapping.view[4 * PAGE]).to.equal(0);
      const expected = copy(mapping.view);
      mapping.drop(5 * PAGE, PAGE);
      const holder = mapping.hold();
      const ckpt = checkpointSync({ regions: mapping.view, layout });
      ruin(mapping.view);
      restoreSync(ckpt, { writer });
      expectSame(mapping.view, expected);
      expect(holder.release()).to.equal(true);
      ckpt.dispose();
    });

    if (hasSwap) {
      it('swapped out since', () => {
        const mapping = Mapping.private(BYTES);
        expectBack(mapping, () => expect(mapping.swapOut()).to.equal(true));
      });

      it('at the checkpoint: swapped out', () => {
        const mapping = Mapping.private(BYTES);
        const expected = copy(fill(mapping.view, 4));
        expect(mapping.swapOut()).to.equal(true);
        const ckpt = checkpointSync({ regions: mapping.view, layout });
        expect(ckpt.pages).to.equal(PAGES);
        ruin(mapping.view);
        restoreSync(ckpt, { writer });
        expectSame(mapping.view, expected);
        ckpt.dispose();
      });
    }

    it('at the checkpoint: read-only', () => {
      const mapping = Mapping.private(BYTES);
      const expected = copy(fill(mapping.view, 3));
      mapping.protect(READ);
      const ckpt = checkpointSync({ regions: mapping.view, layout });
      mapping.protect(READ_WRITE);
      ruin(mapping.view);
      restoreSync(ckpt, { writer });
      expectSame(mapping.view, expected);
      ckpt.dispose();
    });
  });
});

/** Runs with a file of so many random-looking bytes, removed afterwards. */
function withFile(bytes: number, work: (path: string, content: Uint8Array) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'ebpf-ckpt-test-'));
  const content = fill(new Uint8Array(bytes), 7);
  writeFileSync(join(folder, 'file'), content);
  try {
    work(join(folder, 'file'), content);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
