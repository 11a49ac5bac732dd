// refusal.ts: expects an error: which class, which code, which words.

import { expect } from 'chai';
import { CheckpointError } from 'ebpf-ckpt';

type Outcome = { error: Error & { code?: string } } | { error: undefined };

function caught(work: () => unknown): Outcome {
  try {
    work();
  } catch (error) {
    return { error: error as Error };
  }
  return { error: undefined };
}

/** Expects `work` to throw a CheckpointError of this code, and returns it. */
export function refused(code: string, work: () => unknown): CheckpointError {
  return expectRefusal(code, caught(work));
}

/** The same of a promise. */
export async function rejected(code: string, promise: Promise<unknown>): Promise<CheckpointError> {
  const outcome = await promise.then(
    () => ({ error: undefined }),
    (error: unknown) => ({ error: error as Error }),
  );
  return expectRefusal(code, outcome);
}

function expectRefusal(code: string, { error }: Outcome): CheckpointError {
  if (error === undefined) expect.fail(`nothing was thrown, expected ${code}`);
  expect(error, error.stack).to.be.instanceOf(CheckpointError);
  expect(error.code, error.message).to.equal(code);
  expect(error.name).to.equal('CheckpointError');
  expect(error.message).to.match(/\w+ \w+/);
  return error as CheckpointError;
}

/** Expects `work` to throw a TypeError or RangeError whose message matches. */
export function mistaken(type: typeof TypeError | typeof RangeError, message: RegExp, work: () => unknown): void {
  const { error } = caught(work);
  expect(error, 'nothing was thrown').to.be.instanceOf(type);
  expect(error?.message).to.match(message);
  expect(error?.code).to.match(/^ERR_(INVALID_ARG_TYPE|OUT_OF_RANGE|INVALID_ARG_VALUE)$/);
}
