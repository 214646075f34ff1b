import type { WriteStream } from 'node:tty';
import { printable } from '../../util/format.ts';

/** Keep a reader that stops early, as in `qemu-file --help | head -1`, from crashing the command. */
export function guardOutputs(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
}

/**
 * Write text to standard output or standard error, and wait until it is written.
 *
 * @returns False if writing failed, for example because the reader has closed its end.
 */
export function writeText(stream: WriteStream, text: string): Promise<boolean> {
  return new Promise((resolve) => stream.write(text, (error) => resolve(!error)));
}

/** Write one line for people to standard error, with control characters of quoted text escaped. */
export async function printStderr(text: string): Promise<void> {
  const line = text
    .trim()
    .replace(/\s*\n\s*/g, ' | ')
    .replace(/\p{Cc}/gu, printable);
  await writeText(process.stderr, `qemu-file: ${line}\n`);
}
