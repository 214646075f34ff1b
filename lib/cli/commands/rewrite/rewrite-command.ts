import { fstatSync, type Stats, statSync } from 'node:fs';
import type { CompressFormat } from '../../../../adapters/compress/compress.ts';
import { isStoreUrl } from '../../../../adapters/storage/store-url.ts';
import { toQemuFileError } from '../../../contract/errors.ts';
import type { StreamLayout } from '../../../migration/writer/write-saved-guest.ts';
import type { QemuFileOptions } from '../../../qemu-file/options.ts';
import type { QemuFile } from '../../../qemu-file/qemu-file.ts';
import { sinkFile } from '../../../vm/save/sink.ts';
import {
  type Endpoint,
  isSnapshot,
  openToEndpoint,
  parseEndpoint,
  refuseStoreFlags,
  type StoreFlags,
} from '../../endpoints/endpoint.ts';
import { isStdout } from '../../endpoints/open-endpoints.ts';
import type { OpenStream } from '../../endpoints/open-stream.ts';
import { OutputError, UsageError } from '../../shell/command-errors.ts';
import { EXIT } from '../../shell/exit-codes.ts';
import { printStderr, writeText } from '../../shell/stdio.ts';
import { type ReadFlags, readStream } from '../read-command.ts';

/** Options of the commands that read a stream and write another. */
export interface RewriteFlags extends ReadFlags, StoreFlags {
  compress?: CompressFormat;
  /** Where pages lie. Default: `convert` leaves it, `compact` writes `sequential`. */
  layout?: StreamLayout;
}

/** What a command that writes a stream reports. */
export interface Rewritten {
  /** Bytes of the input and of the output; the output before compression. */
  readonly before: number;
  readonly after: number;
  /** What the user should know. */
  readonly notes: readonly string[];
}

/** Milliseconds that a peer may go on sending after the end of the stream. */
const LINGER_MS = 5000;

/** Large batches: the bytes of a file are copied into them, and each is one call in the thread pool. */
const TO_FILE: QemuFileOptions = { stagingSize: 1_048_576 };

/**
 * Run a command that reads a stream and writes another, completely or not at all.
 *
 * @param work - Writes the stream to the file that it is given, and does not close it.
 * @returns The exit code.
 */
export async function rewriteStream(
  verb: string,
  [fromText, toText]: readonly [string, string],
  flags: RewriteFlags,
  work: (stream: OpenStream, to: QemuFile, signal: AbortSignal) => Promise<Rewritten>,
): Promise<number> {
  let to: Endpoint;
  try {
    to = parseEndpoint(toText);
  } catch (error) {
    await printStderr(toQemuFileError(error).reason);
    return EXIT.USAGE;
  }
  const refusal = refuseStoreFlags(toText, flags) ?? layoutMistake(to, flags);
  if (refusal !== undefined) {
    await printStderr(refusal);
    return EXIT.USAGE;
  }
  let output: QemuFile | undefined;
  const measure = () => ({ bytes: output?.putPosition ?? 0, limitedMs: 0 });
  return readStream(
    fromText,
    flags,
    async (stream, signal) => {
      checkNotSame(stream.outer, to, toText);
      const report = await writeTo(
        toText,
        to,
        withKnownSet(flags, fromText, to),
        signal,
        (file) => {
          output = file;
          return work(stream, file, signal);
        },
      );
      return printReport(verb, fromText, toText, flags, report, isStdout(to));
    },
    { measure, total: undefined },
  );
}

/** Return why a stream of this layout cannot go there; undefined if it can. */
function layoutMistake(to: Endpoint, { layout, compress }: RewriteFlags): string | undefined {
  if (layout !== 'mapped-ram') return undefined;
  if (compress !== undefined) {
    return exclusive('--layout mapped-ram', '--compress').message;
  }
  if (to.scheme === 'file') return undefined;
  return '--layout mapped-ram needs a file to write to, which can seek';
}

/** From one snapshot to another, the working set goes along. */
function withKnownSet(flags: RewriteFlags, fromText: string, to: Endpoint): RewriteFlags {
  if (flags.workingSet !== undefined || !isStoreUrl(fromText) || !isSnapshot(to)) return flags;
  return { ...flags, workingSet: fromText };
}

/** Open TO, have it written, and close it; on a failure nothing appears under its name. */
async function writeTo(
  toText: string,
  uri: Endpoint,
  flags: RewriteFlags,
  signal: AbortSignal,
  write: (file: QemuFile) => Promise<Rewritten>,
): Promise<Rewritten> {
  let file: QemuFile;
  try {
    const options = uri.scheme === 'file' ? TO_FILE : {};
    const opened = await openToEndpoint(uri, { signal, file: { ...options, signal } }, flags);
    file = await sinkFile(opened, flags.compress);
  } catch (error) {
    throw new OutputError(toText, toQemuFileError(error));
  }
  try {
    const report = await write(file);
    await finish(file);
    return report;
  } catch (error) {
    const failure = toQemuFileError(error);
    const isOwn = file.error === failure || file.error?.cause === error;
    file.destroy(failure);
    await file.close().catch(() => {});
    throw isOwn && !signal.aborted ? new OutputError(toText, failure) : error;
  }
}

/** End the file, wait until a peer that can send is done, and close it. */
async function finish(file: QemuFile): Promise<void> {
  if (file.readable) {
    await file.flush();
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, LINGER_MS);
      const done = (): void => {
        clearTimeout(timer);
        resolve();
      };
      file.once('end', done).once('error', done).once('close', done);
      file.resume();
      file.end();
    });
  }
  await file.close();
}

/** Refuse to write to the file that is read. */
function checkNotSame(from: QemuFile, to: Endpoint, toText: string): void {
  if (to.scheme !== 'file' || from.getFd() < 0) return;
  let target: Stats;
  try {
    target = statSync(to.path);
  } catch {
    return;
  }
  const source = fstatSync(from.getFd());
  if (!source.isFile() || source.dev !== target.dev || source.ino !== target.ino) return;
  throw new UsageError(`${toText} is the file that is read: give another one`);
}

async function printReport(
  verb: string,
  from: string,
  to: string,
  { json, quiet }: RewriteFlags,
  { before, after, notes }: Rewritten,
  usesStdout: boolean,
): Promise<number> {
  if (quiet !== true) {
    for (const note of notes) await printStderr(`${from}: ${note}`);
    await printStderr(`${verb} ${from} (${before} bytes) to ${to} (${after} bytes)`);
  }
  if (json !== true) return EXIT.DONE;
  const text = `${JSON.stringify({ from, to, bytesBefore: before, bytesAfter: after, notes })}\n`;
  const isPrinted = await writeText(usesStdout ? process.stderr : process.stdout, text);
  return isPrinted ? EXIT.DONE : EXIT.IO;
}

/** Return the error of options that exclude each other. */
export function exclusive(first: string, second: string): UsageError {
  return new UsageError(`${first} and ${second} exclude each other: remove one of them`);
}
