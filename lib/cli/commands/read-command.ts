import { parseUri, type Uri } from '../../../adapters/index.ts';
import { type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { sizeOf } from '../endpoints/open-endpoints.ts';
import { type OpenStream, openStream } from '../endpoints/open-stream.ts';
import { EXIT, readExitCode, SIGNAL_EXITS, SignalAbort } from '../shell/exit-codes.ts';
import { Meter } from '../shell/progress.ts';
import { printStderr } from '../shell/stdio.ts';
import { writeWholeFile } from '../shell/write-file.ts';

/** Options of all commands that read a stream. */
export interface ReadFlags {
  /** Files or endpoints of further channels. */
  channel?: readonly string[];
  /** Name or id of a snapshot in a disk image. */
  snapshot?: string;
  json?: boolean;
  quiet?: boolean;
}

/** What is wrong with the words of a command line. */
export class UsageError extends Error {}

/** What went wrong with something that is written, and not with the stream. */
export class OutputError extends Error {
  readonly path: string;
  readonly error: QemuFileError;

  constructor(path: string, error: QemuFileError) {
    super(error.message, { cause: error });
    this.path = path;
    this.error = error;
  }
}

/** Writes a text into a file, as `writeWhole` does; what it fails with names the file. */
export async function writeOutput(path: string, text: string): Promise<void> {
  try {
    await writeWholeFile(path, text);
  } catch (error) {
    throw new OutputError(path, toQemuFileError(error));
  }
}

/**
 * Runs a command that reads a stream: opens it, shows progress, closes it, and says what failed.
 *
 * @param fromText - Where from, as typed.
 * @param work - Gives the exit code.
 */
export async function readStream(
  fromText: string,
  flags: ReadFlags,
  work: (stream: OpenStream, signal: AbortSignal) => Promise<number>,
): Promise<number> {
  let from: Uri;
  let channels: Uri[];
  try {
    from = parseUri(fromText);
    channels = (flags.channel ?? []).map((text) => parseUri(text));
  } catch (error) {
    await printStderr(toQemuFileError(error).message.replace(/^\w+: parseUri: /, ''));
    return EXIT.USAGE;
  }
  const quiet = flags.quiet === true;
  using interruption = new SignalAbort();
  const { signal } = interruption;
  let stream: OpenStream | undefined;
  let meter: Meter | undefined;
  try {
    stream = await openStream({ from, channels, snapshot: flags.snapshot, signal, quiet });
    const { outer } = stream;
    const measure = () => ({ bytes: outer.getPosition, limitedMs: 0 });
    meter = await Meter.start(measure, sizeOf(from, outer), quiet);
    return await work(stream, signal);
  } catch (error) {
    meter?.stop();
    if (error instanceof UsageError) {
      await printStderr(error.message);
      return EXIT.USAGE;
    }
    const { by } = interruption;
    if (by !== undefined) {
      await printStderr(`interrupted by ${by}`);
      return SIGNAL_EXITS[by];
    }
    if (error instanceof OutputError) {
      await printStderr(`${error.path}: ${error.message}`);
      return EXIT.IO;
    }
    const failure = toQemuFileError(error);
    await printStderr(`${fromText}: ${failure.message}`);
    return readExitCode(failure);
  } finally {
    meter?.stop();
    await stream?.close();
  }
}
