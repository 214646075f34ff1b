import type { WriteStream } from 'node:tty';
import { toQemuFileError } from '../../contract/errors.ts';
import { printable } from '../../util/format.ts';

/** Keep a reader that stops early, as in `qemu-file --help | head -1`, from crashing the command. */
export function guardOutputs(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
}

/**
 * Write text to standard output or standard error, and wait until it is written. A reader that has closed its end is
 * not reported, because it has what it wanted; other failures of standard output are.
 *
 * @returns False if writing failed.
 */
export async function writeText(stream: WriteStream, text: string): Promise<boolean> {
  const failed = await new Promise<Error | null | undefined>((resolve) =>
    stream.write(text, resolve),
  );
  if (!failed) return true;
  if (stream === process.stdout) await reportOutputError(failed);
  return false;
}

/** Print why standard output failed, unless its reader has closed its end. */
export async function reportOutputError(error: Error): Promise<void> {
  const { code, message } = toQemuFileError(error, { operation: 'standard output' });
  if (code !== 'EPIPE') await printStderr(message);
}

/** Write one line for people to standard error, with control characters of quoted text escaped. */
export async function printStderr(text: string): Promise<void> {
  const line = text
    .trim()
    .replace(/\s*\n\s*/g, ' | ')
    .replace(/\p{Cc}/gu, printable);
  await writeText(process.stderr, `qemu-file: ${line}\n`);
}
