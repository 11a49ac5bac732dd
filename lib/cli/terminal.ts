// terminal.ts: what may be written to a stream: colours and moving lines on a terminal only.

type Colour = (text: string) => string;

export interface Paint {
  readonly good: Colour;
  readonly bad: Colour;
  readonly weak: Colour;
  readonly bold: Colour;
}

/** Whether a line may be overwritten. */
export function isTerminal(stream: NodeJS.WriteStream): boolean {
  return stream.isTTY && process.env['TERM'] !== 'dumb';
}

/** Colours for a stream; plain text in a pipe, or where NO_COLOR is set and not empty (no-color.org). */
export function paintFor(stream: NodeJS.WriteStream): Paint {
  const colours = isTerminal(stream) && !process.env['NO_COLOR'];
  const paint =
    (code: number): Colour =>
    (text) =>
      colours ? `\x1b[${code}m${text}\x1b[0m` : text;
  return { good: paint(32), bad: paint(31), weak: paint(2), bold: paint(1) };
}
