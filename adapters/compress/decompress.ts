import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../lib/contract/ops.ts';
import { noop } from '../../lib/util/noop.ts';
import { PIPE_SIZES } from '../shared/sizes.ts';
import { StreamReader, StreamWriter } from '../stream/destroy-stream.ts';
import { ExternalTool } from './external-tool.ts';

/** What is decompressed: a `QemuFile`, or anything else that gives chunks of bytes. */
export interface CompressedSource extends AsyncIterable<Uint8Array> {
  /** Ends it in order; wakes whoever waits for its bytes. */
  close?(): Promise<unknown>;
  /** Ends it because of an error. */
  destroy?(error?: Error): unknown;
}

/** Formats that a tool of the system is called for. */
export type DecompressFormat = 'gzip' | 'bzip2' | 'xz' | 'lzop' | 'zstd';

/** A table over what a tool gives. */
export interface DecompressOps extends QemuFileOps {
  getBuffer(buffer: Uint8Array, position: number): MaybePromise<Uint8Array>;
  close(error?: Error): Promise<void>;
  writevBuffer?: never;
}

/** Each tool is called by the name of its format. */
const ARGUMENTS: Readonly<Record<DecompressFormat, readonly string[]>> = {
  gzip: ['-dc'],
  bzip2: ['-dc'],
  xz: ['-dc'],
  lzop: ['-dc', '--ignore-warn'],
  zstd: ['-dcq'],
};

const END = new Uint8Array(0);

/**
 * Has a tool of the system decompress: `xz -dc` and the like, found in `PATH` and called without a shell.
 *
 * The table that the answer gives is that of a file for reading. The end of the tool's output is given
 * only after it exited with status 0; else reading fails with `EIO` and what the tool said, and with
 * `ENOTSUP` if there is no such tool. What the source fails with, reading fails with, after all output that
 * came of the bytes before. `close()` ends the tool if it still runs, and closes the source.
 *
 * @param format - Which tool.
 * @returns A function that makes a table over a source, which is the table's from then on.
 * @example
 * ```js
 * const packed = await openFrom('file:guest.mig.xz');
 * const file = new QemuFile(decompressWith('xz')(packed));
 * ```
 */
export function decompressWith(
  format: DecompressFormat,
): (source: CompressedSource) => DecompressOps {
  return (source) => {
    const tool = new Decompression(format, source);
    return {
      getBuffer: (_buffer, position) => tool.read(position),
      close: (error) => tool.close(error),
      sizes: PIPE_SIZES,
    };
  };
}

/** A running tool: fed with the source at its own pace, and read. */
class Decompression {
  readonly #format: DecompressFormat;
  readonly #source: CompressedSource;
  readonly #tool: ExternalTool;
  readonly #reader: StreamReader | undefined;
  /** What the source failed with. */
  #sourceError: Error | undefined;
  #closing: Promise<void> | undefined;

  constructor(format: DecompressFormat, source: CompressedSource) {
    this.#format = format;
    this.#source = source;
    this.#tool = new ExternalTool(format, ARGUMENTS[format], 'decompress');
    const { stdin, stdout } = this.#tool;
    if (stdout) this.#reader = new StreamReader(stdout, 'EIO');
    if (stdin) void this.#feed(new StreamWriter(stdin));
  }

  read(position: number): MaybePromise<Uint8Array> {
    if (this.#reader === undefined) return this.#atEnd(position);
    let answer: MaybePromise<Uint8Array>;
    try {
      answer = this.#reader.read(position);
    } catch (error) {
      return this.#atEnd(position, error);
    }
    if (answer instanceof Uint8Array) return answer.length > 0 ? answer : this.#atEnd(position);
    return answer.then(
      (chunk) => (chunk.length > 0 ? chunk : this.#atEnd(position)),
      (error: unknown) => this.#atEnd(position, error),
    );
  }

  close(error?: Error): Promise<void> {
    this.#closing ??= this.#close(error);
    return this.#closing;
  }

  /** Gives the tool what the source has; what goes wrong is told to whoever reads. */
  async #feed(writer: StreamWriter): Promise<void> {
    const chunks = this.#source[Symbol.asyncIterator]();
    try {
      for (let position = 0; ; ) {
        let next: IteratorResult<Uint8Array>;
        try {
          next = await chunks.next();
        } catch (error) {
          this.#sourceError = error as Error;
          // Without an end of its input: it must not take what it has for the whole.
          await this.#tool.end.force();
          return;
        }
        if (next.done === true) break;
        await writer.writev([next.value], position);
        position += next.value.length;
      }
      await writer.end();
    } catch {
      // The tool stopped reading. Its status says whether that is right.
    } finally {
      writer.close();
      void Promise.resolve(chunks.return?.()).catch(noop);
    }
  }

  /** No more output comes: whether that is the end shows when the tool has exited. */
  async #atEnd(position: number, error?: unknown): Promise<Uint8Array> {
    await this.#tool.end.ended;
    if (this.#closing !== undefined) throw closedError(position);
    const failure = this.#failure(position) ?? (error as Error | undefined);
    if (failure !== undefined) throw failure;
    return END;
  }

  #failure(position: number): Error | undefined {
    return this.#sourceError ?? this.#tool.failure(position, `install ${this.#format}`);
  }

  async #close(error?: Error): Promise<void> {
    this.#reader?.close(closedError(undefined));
    await this.#tool.close();
    if (error === undefined) await this.#source.close?.();
    else this.#source.destroy?.(error);
  }
}

function closedError(position: number | undefined): QemuFileError {
  return new QemuFileError('ECANCELED', 'the file was closed', {
    operation: 'decompress',
    position,
  });
}
