import { checkWord } from '../../lib/contract/argument-error.ts';
import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, ReadOps } from '../../lib/contract/ops.ts';
import { noop } from '../../lib/util/noop.ts';
import { PIPE_SIZES } from '../shared/sizes.ts';
import { StreamReader } from '../stream/stream-reader.ts';
import { StreamWriter } from '../stream/stream-writer.ts';
import { ExternalTool } from './external-tool.ts';

/** The source of compressed bytes: a `QemuFile`, or any other iterable of chunks. */
export interface CompressedSource extends AsyncIterable<Uint8Array> {
  /** Close the source after a success. Pending reads of its bytes then settle. */
  close?(): Promise<unknown>;
  /** Close the source after an error. */
  destroy?(error?: Error): unknown;
}

/** Formats that a tool of the system decompresses. */
export type DecompressFormat = 'gzip' | 'bzip2' | 'xz' | 'lzop' | 'zstd';

/** Options of `decompressWith`. */
export interface DecompressOptions {
  /**
   * An open descriptor of the source's file, whose offset is that of the source's next byte. The tool reads it itself,
   * which saves a copy of every byte; the source is not read, only closed. It may be closed after the call.
   */
  stdin?: number | undefined;
}

/** Arguments of the tools. Each tool has the name of its format. */
const ARGUMENTS: Readonly<Record<DecompressFormat, readonly string[]>> = {
  gzip: ['-dc'],
  bzip2: ['-dc'],
  xz: ['-dc'],
  lzop: ['-dc', '--ignore-warn'],
  zstd: ['-dcq'],
};

const END = new Uint8Array(0);

/**
 * Decompress with a tool of the system, such as `xz -dc`, found in `PATH` and started without a shell.
 *
 * The end of the tool's output is reported only after the tool has exited with status 0. Otherwise reads fail
 * with `EIO` and the tool's standard error, or with `ENOTSUP` if the tool is not installed. If the source fails,
 * reads fail with its error after the output from the bytes before. `close()` ends the tool if it is still
 * running, and closes the source.
 *
 * @param format - The format, which selects the tool.
 * @param options - `stdin`.
 * @returns A function that makes a readable backend of a source. The backend owns the source from then on.
 * @example
 * ```js
 * const packed = await openFrom('file:guest.mig.xz');
 * const file = new QemuFile(decompressWith('xz')(packed));
 * ```
 */
export function decompressWith(
  format: DecompressFormat,
  { stdin }: DecompressOptions = {},
): (source: CompressedSource) => ReadOps {
  checkWord('decompressWith', 'format', Object.keys(ARGUMENTS), format);
  return (source) => {
    const decompression = new Decompression(format, source, stdin);
    return {
      getBuffer: (buffer, position) => decompression.read(position, buffer),
      close: (error) => decompression.close(error),
      shutDown: (read) => (read ? decompression.shutDown() : undefined),
      getFd: () => -1,
      sizes: PIPE_SIZES,
    };
  };
}

/** A tool that reads the source at its own pace, and whose output is read. */
class Decompression {
  readonly #format: DecompressFormat;
  readonly #source: CompressedSource;
  readonly #tool: ExternalTool;
  readonly #reader: StreamReader | undefined;
  /** The error of the source. */
  #sourceError: Error | undefined;
  #isStopped = false;
  #closing: Promise<void> | undefined;

  constructor(format: DecompressFormat, source: CompressedSource, input: number | undefined) {
    this.#format = format;
    this.#source = source;
    this.#tool = new ExternalTool(format, ARGUMENTS[format], 'decompress', { stdin: input });
    const { stdin, stdout } = this.#tool;
    if (stdout) this.#reader = new StreamReader(stdout, 'EIO');
    if (stdin) void this.#feed(new StreamWriter(stdin));
  }

  read(position: number, space: Uint8Array): MaybePromise<number | Uint8Array> {
    if (this.#reader === undefined) return this.#atEnd(position);
    let result: MaybePromise<number | Uint8Array>;
    try {
      result = this.#reader.read(position, space);
    } catch (error) {
      return this.#atEnd(position, error);
    }
    if (typeof result === 'number') return result;
    if (result instanceof Uint8Array) return result.length > 0 ? result : this.#atEnd(position);
    return result.then(
      (chunk) => (typeof chunk === 'number' || chunk.length > 0 ? chunk : this.#atEnd(position)),
      (error: unknown) => this.#atEnd(position, error),
    );
  }

  shutDown(): void {
    this.#stopReading();
    void this.#tool.end.force();
  }

  close(error?: Error): Promise<void> {
    this.#closing ??= this.#close(error);
    return this.#closing;
  }

  /** Copy the source to the tool. Never rejects: errors are reported by the reads. */
  async #feed(writer: StreamWriter): Promise<void> {
    const chunks = this.#source[Symbol.asyncIterator]();
    try {
      for (let position = 0; ; ) {
        let next: IteratorResult<Uint8Array>;
        try {
          next = await chunks.next();
        } catch (error) {
          this.#sourceError = error as Error;
          // The input must not end here: the tool would take a truncated source for a complete one.
          await this.#tool.end.force();
          return;
        }
        if (next.done === true) break;
        await writer.writev([next.value], position);
        position += next.value.length;
      }
      await writer.end();
    } catch {
      // The tool stopped reading; its status reports whether that is an error.
    } finally {
      writer.close();
      void Promise.resolve(chunks.return?.()).catch(noop);
    }
  }

  /** The end of the tool's output. The tool's exit status shows whether the output is complete. */
  async #atEnd(position: number, error?: unknown): Promise<Uint8Array> {
    await this.#tool.end.ended;
    if (this.#isStopped) throw closedError(position);
    const failure = this.#failure(position) ?? (error as Error | undefined);
    if (failure !== undefined) throw failure;
    return END;
  }

  #stopReading(): void {
    this.#isStopped = true;
    this.#reader?.close(closedError(undefined));
  }

  #failure(position: number): Error | undefined {
    return this.#sourceError ?? this.#tool.failure(position, `install ${this.#format}`);
  }

  async #close(error?: Error): Promise<void> {
    this.#stopReading();
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
