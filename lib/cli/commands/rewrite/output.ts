import type { CompressFormat } from '../../../../adapters/compress/compress.ts';
import { QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import type { QemuFileOptions } from '../../../qemu-file/options.ts';
import type { QemuFile } from '../../../qemu-file/qemu-file.ts';
import { noop } from '../../../util/noop.ts';
import { isRegularFile } from '../../../util/regular-file.ts';
import { sinkFile } from '../../../vm/save/sink.ts';
import { type Endpoint, openToEndpoint, type StoreFlags } from '../../endpoints/endpoint.ts';
import type { TlsEnds } from '../../endpoints/tls/credentials.ts';
import { tlsHint } from '../../endpoints/tls/hints.ts';
import { OutputError } from '../../shell/command-errors.ts';

/** Options of how a stream is written. */
export interface OutputFlags extends StoreFlags {
  compress?: CompressFormat;
}

/** Which output to open, and how. */
export interface OutputChoice {
  /** The endpoint, as typed. */
  readonly text: string;
  readonly to: Endpoint;
  readonly flags: OutputFlags;
  readonly tls: TlsEnds;
  readonly signal: AbortSignal;
}

/** Report of a command that writes a stream. */
export interface Rewritten {
  /** Bytes of the input and of the output, without compression. */
  readonly before: number;
  readonly after: number;
  /** Notes for the user. */
  readonly notes: readonly string[];
}

/** Milliseconds that a peer may go on sending after the end of the stream. */
const LINGER_MS = 5000;

/**
 * Large batches: each is one call in the thread pool, and the next one starts after the event loop has seen its end.
 * Pages are copied into them: an entry of its own for each page takes longer (bench/write-streams.ts).
 */
const TO_FILE: QemuFileOptions = {
  stagingSize: 4_194_304,
  highWaterMark: 16_777_216,
  copyLimit: 65_536,
};

/** TO, which is written completely or does not appear. */
export class Output {
  readonly #choice: OutputChoice;
  /** The file to write to. */
  file: QemuFile;

  private constructor(choice: OutputChoice, file: QemuFile) {
    this.#choice = choice;
    this.file = file;
  }

  /** @throws {OutputError} (rejects) if it cannot be opened. */
  static async open(choice: OutputChoice): Promise<Output> {
    return new Output(choice, await openFile(choice));
  }

  /** Whether the file can be replaced by a new one, without a trace of what was written. */
  get canRestart(): boolean {
    return this.#choice.to.scheme === 'file' && isRegularFile(this.file.getFd());
  }

  /** Drop what was written, and open a new file in its place. */
  async restart(): Promise<void> {
    await this.#drop(new QemuFileError('ECANCELED', 'the file is written anew'));
    this.file = await openFile(this.#choice);
  }

  /** Write by `work`, then close the file; after a failure nothing appears under its name. */
  async write(work: (output: Output) => Promise<Rewritten>): Promise<Rewritten> {
    const { text, tls, signal } = this.#choice;
    try {
      const report = await work(this);
      await finish(this.file);
      return report;
    } catch (error) {
      const failure = toQemuFileError(error);
      const { file } = this;
      const isOwn = file.error === failure || file.error?.cause === error;
      await this.#drop(failure);
      if (!isOwn || signal.aborted) throw error;
      throw new OutputError(text, failure, tlsHint('to', failure, tls));
    }
  }

  async #drop(reason: QemuFileError): Promise<void> {
    this.file.destroy(reason);
    await this.file.close().catch(noop);
  }
}

async function openFile({ text, to, flags, tls, signal }: OutputChoice): Promise<QemuFile> {
  try {
    const file = { ...(to.scheme === 'file' ? TO_FILE : {}), signal };
    const opened = await openToEndpoint(to, { signal, tls: tls.to, file }, flags);
    return await sinkFile(opened, flags.compress);
  } catch (error) {
    throw new OutputError(text, toQemuFileError(error));
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
