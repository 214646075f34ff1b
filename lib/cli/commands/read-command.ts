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

/** Where a stream comes from. */
export interface Input {
  readonly from: Endpoint;
  /** Its further channels. */
  readonly channels: readonly Uri[];
  /** How the endpoint speaks TLS; undefined if no option asks for it. */
  readonly tls: TlsEnds | undefined;
}

/** How `readStream` opens a stream and shows its progress. */
export interface ReadStreamOptions extends Pick<StreamChoice, 'lookAheadSize'> {
  /** How the endpoint speaks TLS. Default: as the flags ask for it. */
  tls?: TlsEnds | undefined;
  /** What the progress line shows. Default: how much of the input was read. */
  meter?: { readonly measure: () => Measure; readonly total: number | undefined } | undefined;
}

/**
 * Run a command that reads a stream: open it, show progress, print errors, and close it.
 *
 * @param fromText - The endpoint, as typed.
 * @param work - Reads the stream and returns the exit code.
 * @returns The exit code.
 */
export async function readStream(
  fromText: string,
  flags: ReadFlags,
  work: (stream: OpenStream, signal: AbortSignal) => Promise<number>,
  options: ReadStreamOptions = {},
): Promise<number> {
  let input: Input;
  try {
    input = await parseInput(fromText, flags, options.tls);
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
      ...input,
      snapshot: flags.snapshot,
      lookAheadSize: options.lookAheadSize,
      signal,
      quiet,
    });
    const { outer } = stream;
    const { measure, total } = options.meter ?? {
      measure: () => ({ bytes: bytesRead(outer), limitedMs: 0 }),
      total: sizeOf(input.from, outer),
    };
    meter = await Meter.start(measure, total, quiet);
    return await work(stream, signal);
  } catch (error) {
    meter?.stop();
    return await reportFailure(error, fromText, interruption);
  } finally {
    meter?.stop();
    await stream?.close();
  }
}

/**
 * Parse the endpoints of a command that reads a stream, and read the files that its TLS options name.
 *
 * @param tls - How the endpoint speaks TLS, where the caller has read those files already.
 * @throws {QemuFileError} (rejects) an error for `reportUnreadable`.
 */
export async function parseInput(
  fromText: string,
  flags: ReadFlags,
  tls?: TlsEnds,
): Promise<Input> {
  const from = parseEndpoint(fromText);
  const channels = (flags.channel ?? []).map((text) => parseUri(text));
  return { from, channels, tls: tls ?? (await readFromTls(flags, from)) };
}

/** Print why a command failed; return the exit code. */
async function reportFailure(
  error: unknown,
  fromText: string,
  { by }: SignalAbort,
): Promise<number> {
  if (error instanceof UsageError) {
    await printStderr(error.message);
    return EXIT.USAGE;
  }
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
}
