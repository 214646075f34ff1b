import type { WriteStream } from 'node:tty';
import { printable } from '../../util/format.ts';

/** Makes a reader that leaves early, as in `qemu-file --help | head -1`, no reason to crash. */
export function guardOutputs(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
}

/**
 * Writes text to standard output or error, and waits until it has left.
 *
 * @returns False if nobody reads it any more, or it cannot be written for another reason.
 */
export function writeText(stream: WriteStream, text: string): Promise<boolean> {
  return new Promise((resolve) => stream.write(text, (error) => resolve(!error)));
}

/** Writes one line for people to standard error; what it quotes cannot do anything to a terminal. */
export async function printStderr(text: string): Promise<void> {
  const line = text
    .trim()
    .replace(/\s*\n\s*/g, ' | ')
    .replace(/\p{Cc}/gu, printable);
  await writeText(process.stderr, `qemu-file: ${line}\n`);
}
