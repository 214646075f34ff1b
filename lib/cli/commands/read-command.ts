import { parseUri, type Uri } from '../../../adapters/uri.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { bytesRead } from '../../vm/decompress.ts';
import { type Endpoint, parseEndpoint } from '../endpoints/endpoint.ts';
import { sizeOf } from '../endpoints/open-endpoints.ts';
import { type OpenStream, openStream, type StreamChoice } from '../endpoints/open-stream.ts';
import type { TlsEnds } from '../endpoints/tls/credentials.ts';
import {
  type FromTlsFlags,
  readFromTls,
  reportUnreadable,
} from '../endpoints/tls/read-from-tls.ts';
import { OutputError, UsageError } from '../shell/command-errors.ts';
import { EXIT, readExitCode, SIGNAL_EXITS, SignalAbort } from '../shell/exit-codes.ts';
import { type Measure, Meter } from '../shell/progress.ts';
import { printStderr } from '../shell/stdio.ts';

/** Options of all commands that read a stream. */
export interface ReadFlags extends FromTlsFlags {
  /** Files or endpoints of further channels. */
  channel?: readonly string[];
  /** Name or ID of a snapshot in a qcow2 image. */
  snapshot?: string;
  json?: boolean;
  quiet?: boolean;
}

/**
 * Run a command that reads a stream: open it, show progress, print errors, and close it.
 *
 * @param fromText - The endpoint, as typed.
 * @param work - Reads the stream and returns the exit code.
 * @param meterOf - What the progress line shows. Default: how much of the input was read.
 * @param opening - How the stream is opened. Default for `tls`: as the flags ask for it.
 * @returns The exit code.
 */
export async function readStream(
  fromText: string,
  flags: ReadFlags,
  work: (stream: OpenStream, signal: AbortSignal) => Promise<number>,
  meterOf?: { readonly measure: () => Measure; readonly total: number | undefined },
  opening: Pick<StreamChoice, 'lookAheadSize' | 'tls'> = {},
): Promise<number> {
  let from: Endpoint;
  let channels: Uri[];
  let tls: TlsEnds | undefined;
  try {
    from = parseEndpoint(fromText);
    channels = (flags.channel ?? []).map((text) => parseUri(text));
    tls = opening.tls ?? (await readFromTls(flags, from));
  } catch (error) {
    return reportUnreadable(error);
  }
  const quiet = flags.quiet === true;
  using interruption = new SignalAbort();
  const { signal } = interruption;
  let stream: OpenStream | undefined;
  let meter: Meter | undefined;
  try {
    stream = await openStream({
      from,
      channels,
      snapshot: flags.snapshot,
      lookAheadSize: opening.lookAheadSize,
      tls,
      signal,
      quiet,
    });
    const { outer } = stream;
    const { measure, total } = meterOf ?? {
      measure: () => ({ bytes: bytesRead(outer), limitedMs: 0 }),
      total: sizeOf(from, outer),
    };
    meter = await Meter.start(measure, total, quiet);
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
