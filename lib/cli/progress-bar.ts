// progress-bar.ts: shows how far a phase is: a moving line on a terminal, one plain line when it is over elsewhere.

import { isTerminal } from './terminal';

/** Redrawing more often costs more than it tells. */
const REDRAW_MS = 40;
const WIDTH = 32;

export class ProgressBar {
  readonly #stream: NodeJS.WriteStream;
  readonly #label: string;
  readonly #moving: boolean;
  #drawn = -Infinity;

  constructor(stream: NodeJS.WriteStream, label: string) {
    this.#stream = stream;
    this.#label = label;
    this.#moving = isTerminal(stream);
  }

  /** Cheap enough to be called for every page. */
  update(done: number, total: number): void {
    if (!this.#moving) return;
    const now = performance.now();
    if (done < total && now - this.#drawn < REDRAW_MS) return;
    this.#drawn = now;
    const filled = total === 0 ? WIDTH : Math.round((done / total) * WIDTH);
    const bar = '█'.repeat(filled) + '░'.repeat(WIDTH - filled);
    this.#stream.write(`\r\x1b[2K${this.#label} ${bar} ${done}/${total} pages`);
  }

  /** Ends the phase with a line that stays. */
  finish(outcome: string): void {
    this.#stream.write(`${this.#moving ? '\r\x1b[2K' : ''}${this.#label} ${outcome}\n`);
  }
}
