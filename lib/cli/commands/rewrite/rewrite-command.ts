import { fstatSync, type Stats, statSync } from 'node:fs';
import type { CompressFormat } from '../../../../adapters/compress/compress.ts';
import { isStoreUrl } from '../../../../adapters/storage/store-url.ts';
import { QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import type { StreamLayout } from '../../../migration/guest-writer/guest-writer.ts';
import type { QemuFileOptions } from '../../../qemu-file/options.ts';
import type { QemuFile } from '../../../qemu-file/qemu-file.ts';
import { noop } from '../../../util/noop.ts';
import { isRegularFile } from '../../../util/regular-file.ts';
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
import { reportUnusable } from '../../endpoints/report-unusable.ts';
import { readTls, type TlsEnds, type TlsFlags } from '../../endpoints/tls/credentials.ts';
import { tlsHint } from '../../endpoints/tls/hints.ts';
import { OutputError, UsageError } from '../../shell/command-errors.ts';
import { EXIT } from '../../shell/exit-codes.ts';
import { printStderr, writeText } from '../../shell/stdio.ts';
import { type ReadFlags, readStream } from '../read-command.ts';

/** Options of the commands that read a stream and write another. */
export interface RewriteFlags extends ReadFlags, StoreFlags, TlsFlags {
  compress?: CompressFormat;
  /** Where pages lie. Default: `convert` leaves it, `compact` writes `sequential`. */
  layout?: StreamLayout;
}

/** Bytes of a file that are read at a time: the time between a read and the write of its bytes counts for each. */
const FROM_FILE_BYTES = 4_194_304;

/** What a command that writes a stream reports. */
export interface Rewritten {
  /** Bytes of the input and of the output, without compression. */
  readonly before: number;
  readonly after: number;
  /** What the user should know. */
  readonly notes: readonly string[];
}

/** Milliseconds that a peer may go on sending after the end of the stream. */
const LINGER_MS = 5000;

/**
 * Large batches: each is one call in the thread pool, and until it is noticed that one has ended, no other is written.
 * Pages are copied into them: an entry of its own for each page takes longer (bench/write-streams.ts).
 */
const TO_FILE: QemuFileOptions = {
  stagingSize: 4_194_304,
  highWaterMark: 16_777_216,
  copyLimit: 65_536,
};

/**
 * Run a command that reads a stream and writes another, completely or not at all.
 *
 * @param work - Writes the stream to the output's file, and does not close it.
 * @returns The exit code.
 */
export async function rewriteStream(
  verb: string,
  [fromText, toText]: readonly [string, string],
  flags: RewriteFlags,
  work: (stream: OpenStream, output: Output, signal: AbortSignal) => Promise<Rewritten>,
): Promise<number> {
  let from: Endpoint;
  let to: Endpoint;
  try {
    from = parseEndpoint(fromText);
    to = parseEndpoint(toText);
  } catch (error) {
    return reportUnusable(error);
  }
  const refusal = refuseStoreFlags(toText, flags) ?? layoutMistake(to, flags);
  if (refusal !== undefined) {
    await printStderr(refusal);
    return EXIT.USAGE;
  }
  let tls: TlsEnds;
  try {
    tls = await readTls(flags, { from, to }, (text) => void printStderr(text));
  } catch (error) {
    return reportUnusable(error);
  }
  const lookAheadSize = from.scheme === 'file' ? FROM_FILE_BYTES : undefined;
  let output: Output | undefined;
  const measure = () => ({ bytes: output?.file.putPosition ?? 0, limitedMs: 0 });
  return readStream(
    fromText,
    flags,
    async (stream, signal) => {
      checkNotSame(stream.outer, to, toText);
      const store = withKnownSet(flags, fromText, to);
      output = await Output.open(toText, to, store, tls, signal);
      const report = await output.write((opened) => work(stream, opened, signal));
      return printReport(verb, fromText, toText, flags, report, isStdout(to));
    },
    { measure, total: undefined },
    { lookAheadSize, tls },
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

/** TO, which is written completely or does not appear. */
export class Output {
  readonly #text: string;
  readonly #uri: Endpoint;
  readonly #open: () => Promise<QemuFile>;
  readonly #tls: TlsEnds;
  readonly #signal: AbortSignal;
  /** The file to write to. */
  file: QemuFile;

  private constructor(
    text: string,
    uri: Endpoint,
    file: QemuFile,
    open: () => Promise<QemuFile>,
    tls: TlsEnds,
    signal: AbortSignal,
  ) {
    this.#text = text;
    this.#uri = uri;
    this.file = file;
    this.#open = open;
    this.#tls = tls;
    this.#signal = signal;
  }

  /** @throws {OutputError} (rejects) if it cannot be opened. */
  static async open(
    text: string,
    uri: Endpoint,
    flags: RewriteFlags,
    tls: TlsEnds,
    signal: AbortSignal,
  ): Promise<Output> {
    const open = async (): Promise<QemuFile> => {
      try {
        const options = uri.scheme === 'file' ? TO_FILE : {};
        const opened = await openToEndpoint(
          uri,
          { signal, tls: tls.to, file: { ...options, signal } },
          flags,
        );
        return await sinkFile(opened, flags.compress);
      } catch (error) {
        throw new OutputError(text, toQemuFileError(error));
      }
    };
    return new Output(text, uri, await open(), open, tls, signal);
  }

  /** Whether what was written can be taken back. */
  get canRestart(): boolean {
    return this.#uri.scheme === 'file' && isRegularFile(this.file.getFd());
  }

  /** Drop what was written, and open a new file in its place. */
  async restart(): Promise<void> {
    await this.#drop(new QemuFileError('ECANCELED', 'the file is written anew'));
    this.file = await this.#open();
  }

  /** Have it written, and close it; on a failure nothing appears under its name. */
  async write(work: (output: Output) => Promise<Rewritten>): Promise<Rewritten> {
    try {
      const report = await work(this);
      await finish(this.file);
      return report;
    } catch (error) {
      const failure = toQemuFileError(error);
      const { file } = this;
      const isOwn = file.error === failure || file.error?.cause === error;
      await this.#drop(failure);
      if (!isOwn || this.#signal.aborted) throw error;
      throw new OutputError(this.#text, failure, tlsHint('to', failure, this.#tls));
    }
  }

  async #drop(reason: QemuFileError): Promise<void> {
    this.file.destroy(reason);
    await this.file.close().catch(noop);
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
