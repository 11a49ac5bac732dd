// 10-checkpoint-misuse: mistakes are told before anything happens, naming the option.

import { expect } from 'chai';
import {
  checkpoint,
  checkpointSync,
  configure,
  restore,
  restoreSync,
  settings,
  stats,
  type Checkpoint,
  type CheckpointOptions,
  type RestoreOptions,
} from 'ebpf-ckpt';
import { mistaken, refused, rejected } from './support/refusal';

type Mistake = [what: string, options: unknown, type: typeof TypeError | typeof RangeError, message: RegExp];

const regions = Buffer.alloc(10);

const regionMistakes: Mistake[] = [
  ['an empty list of regions', { regions: [] }, TypeError, /"regions" option/],
  ['a number as region', { regions: 5 }, TypeError, /"regions" option/],
  ['a string as region', { regions: 'abc' }, TypeError, /"regions" option/],
  ['null as region', { regions: null }, TypeError, /"regions" option/],
  ['a list with something else in it', { regions: [regions, {}] }, TypeError, /regions\[1\]/],
  ['a list with a hole', { regions: [regions, undefined] }, TypeError, /regions\[1\]/],
  ['a layout that is none', { regions, layout: 'slow' }, TypeError, /"layout" option/],
  ['the seed layout with another pace', { regions, layout: 'seed', pagesPerTrigger: 2 }, RangeError, /"pagesPerTrigger" option/],
];

const sharedMistakes: Mistake[] = [
  ['no page a trigger', { regions, pagesPerTrigger: 0 }, RangeError, /"pagesPerTrigger" option/],
  ['too many pages a trigger', { regions, pagesPerTrigger: 257 }, RangeError, /"pagesPerTrigger" option/],
  ['a fraction of pages a trigger', { regions, pagesPerTrigger: 1.5 }, RangeError, /"pagesPerTrigger" option/],
  ['NaN pages a trigger', { regions, pagesPerTrigger: NaN }, RangeError, /"pagesPerTrigger" option/],
  ['pages a trigger in words', { regions, pagesPerTrigger: '1' }, TypeError, /"pagesPerTrigger" option/],
  ['a callback that is none', { regions, onProgress: 5 }, TypeError, /^Expected the "onProgress" option to be a function/],
  ['an emitter that is none', { regions, emitter: {} }, TypeError, /"emitter" option/],
  ['a signal that is none', { regions, signal: {} }, TypeError, /"signal" option/],
];

const restoreMistakes: Mistake[] = [['a writer that is none', { writer: 'pen' }, TypeError, /"writer" option/]];

describe('checkpoint() misused', () => {
  for (const [what, options, type, message] of [...regionMistakes, ...sharedMistakes]) {
    it(`refuses ${what}`, async () => {
      const before = stats();
      mistaken(type, message, () => checkpointSync(options as CheckpointOptions));
      const { error } = await checkpoint(options as CheckpointOptions).then(
        () => ({ error: undefined }),
        (error: unknown) => ({ error }),
      );
      mistaken(type, message, () => {
        throw error;
      });
      expect(stats()).to.deep.equal(before);
    });
  }

  it('refuses options that are no object', () => {
    mistaken(TypeError, /options/, () => checkpointSync(5 as unknown as CheckpointOptions));
  });

  it('says that the whole process is yet to come, where no regions are given', async () => {
    const nothing = checkpointSync as () => unknown;
    refused('ERR_CKPT_NOT_YET', () => nothing());
    refused('ERR_CKPT_NOT_YET', () => checkpointSync({} as CheckpointOptions));
    await rejected('ERR_CKPT_NOT_YET', (checkpoint as () => Promise<unknown>)());
  });

  it('refuses a detached ArrayBuffer by name', () => {
    const buffer = new ArrayBuffer(64);
    structuredClone(buffer, { transfer: [buffer] });
    const { message } = refused('ERR_CKPT_REGION_DETACHED', () => checkpointSync({ regions: [regions, buffer] }));
    expect(message).to.include('regions[1] (ArrayBuffer)');
  });

  it('refuses a view of a detached ArrayBuffer by name', () => {
    const view = new Uint16Array(64);
    structuredClone(view.buffer, { transfer: [view.buffer] });
    const { message } = refused('ERR_CKPT_REGION_DETACHED', () => checkpointSync({ regions: view }));
    expect(message).to.include('regions[0] (Uint16Array)');
  });

  it('does not let users make a Checkpoint', () => {
    const ckpt = checkpointSync({ regions });
    const Constructor = ckpt.constructor as new (...args: unknown[]) => Checkpoint;
    ckpt.dispose();
    expect(() => new Constructor()).to.throw(TypeError);
    expect(() => new Constructor({ index: 0, generation: 1 })).to.throw(TypeError);
  });

  it('takes no error of a getter for its own', () => {
    const own = new Error('mine');
    const options = {
      get regions(): Buffer {
        throw own;
      },
    };
    expect(() => checkpointSync(options)).to.throw(own);
  });
});

describe('restore() misused', () => {
  let ckpt: Checkpoint;
  before(() => {
    ckpt = checkpointSync({ regions });
  });
  after(() => ckpt.dispose());

  for (const [what, options, type, message] of [...restoreMistakes, ...sharedMistakes]) {
    it(`refuses ${what}`, () => {
      mistaken(type, message, () => restoreSync(ckpt, options as RestoreOptions));
      expect(ckpt.restores).to.equal(0);
    });
  }

  for (const [what, value] of Object.entries({ nothing: undefined, null: null, 'an object': {}, 'its id': 1 })) {
    it(`refuses ${what} for a checkpoint`, async () => {
      mistaken(TypeError, /Checkpoint/, () => restoreSync(value as Checkpoint));
      await restore(value as Checkpoint).then(
        () => expect.fail('it was taken'),
        (error: unknown) => expect(error).to.be.instanceOf(TypeError),
      );
    });
  }

  it('refuses an object that only inherits from a Checkpoint', () => {
    mistaken(TypeError, /Checkpoint/, () => restoreSync(Object.create(ckpt) as Checkpoint));
  });
});

describe('configure() misused', () => {
  const mistakes: Mistake[] = [
    ['a negative pool', { poolBytes: -1 }, RangeError, /"poolBytes"/],
    ['a pool in words', { poolBytes: '1' }, TypeError, /"poolBytes"/],
    ['a ceiling of NaN', { maxBytes: NaN }, RangeError, /"maxBytes"/],
    ['a negative delay', { detachAfterMs: -1 }, RangeError, /"detachAfterMs"/],
    ['a delay that is no number', { shrinkAfterMs: null }, TypeError, /"shrinkAfterMs"/],
  ];
  for (const [what, given, type, message] of mistakes) {
    it(`refuses ${what} and changes nothing`, () => {
      const before = settings();
      mistaken(type, message, () => configure(given as Parameters<typeof configure>[0]));
      expect(settings()).to.deep.equal(before);
    });
  }

  it('gives back what is in force', () => {
    const before = settings();
    const changed = configure({ poolBytes: 1 << 20 });
    expect(changed).to.deep.equal({ ...before, poolBytes: 1 << 20 });
    expect(settings()).to.deep.equal(changed);
    expect(configure(before)).to.deep.equal(before);
  });
});
