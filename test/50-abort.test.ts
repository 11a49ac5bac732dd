// 50-abort: an operation that breaks off. A capture leaves nothing; a restore leaves its target poisoned until it is restored whole.

import { EventEmitter } from 'node:events';
import { existsSync, openSync } from 'node:fs';
import { expect } from 'chai';
import {
  checkpoint,
  checkpointSync,
  restore,
  restoreSync,
  stats,
  trim,
  type Checkpoint,
  type CheckpointOptions,
  type Progress,
} from 'ebpf-ckpt';
import { copy, expectSame, fill, ruin } from './support/bytes';
import { PAGE } from './support/memory';
import { refused, rejected } from './support/refusal';
import { eachWay, layouts } from './support/ways';

const PAGES = 10;

/** What stands between this test and the next: checkpoints, and bytes they hold. */
const holdings = (): number[] => [stats().checkpoints, stats().liveBytes, stats().operations];

/** So many pages of memory, filled; not aligned, as buffers are not, so that it touches one page more. */
function pages(seed: number): Uint8Array {
  return fill(new Uint8Array(PAGES * PAGE), seed);
}

describe('a capture that breaks off', () => {
  for (const layout of layouts) {
    describe(`layout ${layout}`, () => {
      const pace = { layout, pagesPerTrigger: 1 } as const;

      it('before the first trigger, by a signal that is aborted already, moves nothing', async () => {
        const reason = new Error('enough');
        let events = 0;
        const options = { regions: pages(1), ...pace, signal: AbortSignal.abort(reason), onProgress: () => events++ };
        const before = [holdings(), stats().triggers];
        expect(refused('ERR_CKPT_ABORTED', () => checkpointSync(options)).cause).to.equal(reason);
        expect((await rejected('ERR_CKPT_ABORTED', checkpoint(options))).cause).to.equal(reason);
        expect(events).to.equal(0);
        expect([holdings(), stats().triggers]).to.deep.equal(before);
      });

      it('by a signal in a callback leaves nothing', () => {
        const controller = new AbortController();
        let events = 0;
        const onProgress = ({ donePages }: Progress): void => {
          events++;
          if (donePages === 3) controller.abort('third page');
        };
        const before = holdings();
        const { cause } = refused('ERR_CKPT_ABORTED', () =>
          checkpointSync({ regions: pages(1), ...pace, signal: controller.signal, onProgress }),
        );
        expect([cause, events]).to.deep.equal(['third page', 3]);
        expect(holdings()).to.deep.equal(before);
      });

      it('still counts its triggers', () => {
        const before = stats().triggers;
        const onProgress = ({ donePages }: Progress): void => {
          if (donePages === 3) throw new Error('enough');
        };
        refused('ERR_CKPT_ABORTED', () => checkpointSync({ regions: pages(1), ...pace, onProgress }));
        expect(stats().triggers - before).to.be.within(3, 100);
      });

      it('by an async callback, which would come too late, leaves nothing and rejects nowhere', async () => {
        const before = holdings();
        const onProgress = async (): Promise<never> => {
          await Promise.resolve();
          throw new Error('unheard');
        };
        // eslint-disable-next-line @typescript-eslint/no-misused-promises -- the misuse that is tested
        const { cause } = refused('ERR_CKPT_ABORTED', () => checkpointSync({ regions: pages(1), ...pace, onProgress }));
        expect(cause).to.be.instanceOf(TypeError);
        expect((cause as Error).message).to.include('async');
        expect(holdings()).to.deep.equal(before);
        await new Promise(setImmediate);
      });

      it('by a callback that throws leaves nothing, and tells what was thrown', async () => {
        const thrown = new RangeError('mine');
        const options: CheckpointOptions = {
          regions: pages(1),
          ...pace,
          onProgress: ({ donePages }) => {
            if (donePages === 4) throw thrown;
          },
        };
        const before = holdings();
        expect(refused('ERR_CKPT_ABORTED', () => checkpointSync(options)).cause).to.equal(thrown);
        expect((await rejected('ERR_CKPT_ABORTED', checkpoint(options))).cause).to.equal(thrown);
        expect(holdings()).to.deep.equal(before);
      });

      it('by a listener that throws leaves nothing', () => {
        const emitter = new EventEmitter().on('progress', () => {
          throw new Error('listener');
        });
        const before = holdings();
        const { cause } = refused('ERR_CKPT_ABORTED', () => checkpointSync({ regions: pages(1), ...pace, emitter }));
        expect((cause as Error).message).to.equal('listener');
        expect(holdings()).to.deep.equal(before);
      });

      it('may be done again', () => {
        const region = pages(1);
        const expected = copy(region);
        refused('ERR_CKPT_ABORTED', () => checkpointSync({ regions: region, ...pace, signal: AbortSignal.abort() }));
        const ckpt = checkpointSync({ regions: region, ...pace });
        ruin(region);
        restoreSync(ckpt);
        expectSame(region, expected);
        ckpt.dispose();
      });
    });
  }

  it('by a callback that throws in its last event leaves nothing', () => {
    const before = holdings();
    const onProgress = ({ donePages, totalPages }: Progress): void => {
      if (donePages === totalPages) throw new Error('at the end');
    };
    refused('ERR_CKPT_ABORTED', () => checkpointSync({ regions: pages(1), pagesPerTrigger: 1, onProgress }));
    expect(holdings()).to.deep.equal(before);
  });
});

describe('a restore that breaks off', () => {
  eachWay(({ layout, writer }) => {
    const pace = { pagesPerTrigger: 1, writer } as const;
    let region: Uint8Array;
    let expected: Uint8Array;
    let ckpt: Checkpoint;

    beforeEach(() => {
      region = pages(2);
      expected = copy(region);
      ckpt = checkpointSync({ regions: region, layout });
      ruin(region);
    });
    afterEach(() => ckpt.dispose());

    it('before the first trigger changes nothing and poisons nothing', async () => {
      const ruined = copy(region);
      const signal = AbortSignal.abort('no');
      expect(refused('ERR_CKPT_ABORTED', () => restoreSync(ckpt, { ...pace, signal })).cause).to.equal('no');
      await rejected('ERR_CKPT_ABORTED', restore(ckpt, { ...pace, signal }));
      expectSame(region, ruined);
      expect([ckpt.poisoned, ckpt.restores]).to.deep.equal([false, 0]);
    });

    it('half way leaves the target poisoned, until it is restored whole', () => {
      const stop = ({ donePages }: Progress): void => {
        if (donePages === 5) throw new Error('half way');
      };
      refused('ERR_CKPT_ABORTED', () => restoreSync(ckpt, { ...pace, onProgress: stop }));
      expect([ckpt.poisoned, ckpt.restores]).to.deep.equal([true, 0]);
      expectSame(region.subarray(0, 4 * PAGE), expected.subarray(0, 4 * PAGE), 'the first pages');
      expect(Buffer.compare(region, expected), 'not all of it').to.not.equal(0);
      restoreSync(ckpt, { writer });
      expectSame(region, expected);
      expect([ckpt.poisoned, ckpt.restores]).to.deep.equal([false, 1]);
    });

    it('by a signal in a callback does the same', async () => {
      const controller = new AbortController();
      const onProgress = ({ donePages }: Progress): void => {
        if (donePages === 2) controller.abort();
      };
      const { cause } = await rejected('ERR_CKPT_ABORTED', restore(ckpt, { ...pace, signal: controller.signal, onProgress }));
      expect(cause).to.equal(controller.signal.reason);
      expect(ckpt.poisoned).to.equal(true);
      restoreSync(ckpt, pace);
      expectSame(region, expected);
      expect(ckpt.poisoned).to.equal(false);
    });

    it('half way keeps the bytes from being checkpointed, until they are whole or the checkpoint is disposed of', () => {
      const stop = ({ donePages }: Progress): void => {
        if (donePages === 5) throw new Error('half way');
      };
      const halfWay = (): unknown => refused('ERR_CKPT_ABORTED', () => restoreSync(ckpt, { ...pace, onProgress: stop }));
      halfWay();
      refused('ERR_CKPT_POISONED', () => checkpointSync({ regions: region.subarray(100, 200), layout }));
      checkpointSync({ regions: Buffer.alloc(100), layout }).dispose();
      restoreSync(ckpt, pace);
      checkpointSync({ regions: region, layout }).dispose();
      halfWay();
      ckpt.dispose();
      checkpointSync({ regions: region, layout }).dispose();
    });

    it('half way is made whole by another checkpoint of the same regions, too', () => {
      const other = checkpointSync({ regions: region, layout });
      const ruined = copy(region);
      const stop = (): void => {
        throw new Error('first page');
      };
      refused('ERR_CKPT_ABORTED', () => restoreSync(ckpt, { ...pace, onProgress: stop }));
      restoreSync(other, { writer });
      expectSame(region, ruined);
      expect(ckpt.poisoned).to.equal(false);
      checkpointSync({ regions: region, layout }).dispose();
      other.dispose();
    });

    it('may be disposed while poisoned', () => {
      const stop = (): void => {
        throw new Error('stop');
      };
      refused('ERR_CKPT_ABORTED', () => restoreSync(ckpt, { ...pace, onProgress: stop }));
      ckpt.dispose();
      refused('ERR_CKPT_DISPOSED', () => restoreSync(ckpt));
    });
  });
});

describe('a callback that calls back in', () => {
  /** Runs `inside` within a capture, once; the capture must come to its end. */
  function within(inside: () => void): void {
    let calls = 0;
    const onProgress = (): void => {
      if (calls++ === 0) inside();
    };
    const region = pages(3);
    const expected = copy(region);
    const ckpt = checkpointSync({ regions: region, pagesPerTrigger: 1, onProgress });
    expect(calls).to.be.at.least(PAGES);
    ruin(region);
    restoreSync(ckpt);
    expectSame(region, expected);
    ckpt.dispose();
  }

  it('may not checkpoint, not even other regions', () => {
    within(() => refused('ERR_CKPT_REENTRANT', () => checkpointSync({ regions: Buffer.alloc(5) })));
  });

  it('may not checkpoint by promise either', async () => {
    let inner: Promise<unknown> | undefined;
    within(() => {
      inner = rejected('ERR_CKPT_REENTRANT', checkpoint({ regions: Buffer.alloc(5) }));
    });
    await inner;
  });

  it('may not restore', () => {
    const other = Buffer.alloc(5000, 1);
    const ckpt = checkpointSync({ regions: other });
    other.fill(2);
    within(() => refused('ERR_CKPT_REENTRANT', () => restoreSync(ckpt)));
    expectSame(other, new Uint8Array(5000).fill(2));
    ckpt.dispose();
  });

  it('may not trim', async () => {
    let inner: Promise<unknown> | undefined;
    within(() => {
      inner = rejected('ERR_CKPT_REENTRANT', trim());
    });
    await inner;
  });

  it('may not dispose of what is being restored', () => {
    const region = pages(4);
    const expected = copy(region);
    const ckpt = checkpointSync({ regions: region });
    ruin(region);
    let calls = 0;
    const onProgress = (): void => {
      if (calls++ === 0) refused('ERR_CKPT_REENTRANT', () => ckpt.dispose());
    };
    restoreSync(ckpt, { pagesPerTrigger: 1, onProgress });
    expectSame(region, expected);
    expect(ckpt.disposed).to.equal(false);
    ckpt.dispose();
  });

  it('aborts the operation if it lets the refusal out', () => {
    const onProgress = (): void => checkpointSync({ regions: Buffer.alloc(5) }).dispose();
    const { cause } = refused('ERR_CKPT_ABORTED', () => checkpointSync({ regions: pages(5), onProgress }));
    expect(cause).to.have.property('code', 'ERR_CKPT_REENTRANT');
  });

  it('may open the marker files and look for the completion files itself: nothing comes of it', () => {
    const files = ['ready_to_checkpoint', 'ready_to_restore', '/tmp/checkpoint_complete', '/tmp/restore_complete'];
    const region = pages(6);
    const expected = copy(region);
    const seen: number[] = [];
    const onProgress = ({ donePages }: Progress): void => {
      seen.push(donePages);
      for (const file of files) expect(existsSync(file)).to.equal(false);
      for (const file of files) expect(() => openSync(file, 'r')).to.throw('ENOENT');
    };
    const ckpt = checkpointSync({ regions: region, pagesPerTrigger: 1, onProgress });
    ruin(region);
    restoreSync(ckpt, { pagesPerTrigger: 1, onProgress });
    expectSame(region, expected);
    const each = Array.from({ length: ckpt.pages }, (_, index) => index + 1);
    expect(seen).to.deep.equal([...each, ...each]);
    ckpt.dispose();
  });

  it('may read figures', () => {
    within(() => expect(stats().operations).to.equal(1));
  });
});
