// counts.ts: how often the tests repeat things; fewer where CKPT_TEST_SLOW=1 says that the machine is emulated.

const slow = process.env['CKPT_TEST_SLOW'] === '1';

export const counts = {
  /** Runs of each fast-check property. */
  properties: slow ? 20 : 150,
  /** Checkpoints alive at once. */
  alive: slow ? 40 : 200,
  /** Checkpoint, restore, dispose. */
  cycles: slow ? 1000 : 10_000,
  /** Checkpoints on a warm pool. */
  warm: slow ? 200 : 1000,
  /** Restores of one checkpoint. */
  restores: slow ? 500 : 5000,
  /** Checkpoints in each of the Workers. */
  perWorker: slow ? 20 : 200,
  /** Processes killed at a random moment. */
  kills: slow ? 2 : 8,
  /** MiB of the demo. */
  demoMiB: slow ? 8 : 48,
  /** MiB of an image that takes several segments of data_map, where there is the memory for it. */
  largeMiB: slow ? 48 : 1100,
  /** Processes of a user who is not served. */
  refused: slow ? 300 : 10_000,
  /** Times that a marker is opened for nothing. */
  storm: slow ? 20_000 : 1_000_000,
  /** Programs that are served at once. */
  crowd: slow ? 6 : 20,
  /** Times that a pid is used again. */
  reuses: slow ? 1 : 4,
  /** MiB of the .bss of the seed's program that are touched. */
  bssMiB: slow ? 24 : 400,
  /** Seconds after which a program gives up what must not be answered. */
  inVain: slow ? 8 : 0.7,
  /** Seconds after which the daemon gives up a client that does not go on. */
  stall: slow ? 3 : 1,
  /** Factor for everything that waits for something. */
  patience: slow ? 20 : 1,
};
