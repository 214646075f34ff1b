import type { Readable, Writable } from 'node:stream';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, ReadOps, WriteOps } from '../../lib/contract/ops.ts';
import { PIPE_SIZES } from '../shared/sizes.ts';
import { destroyStream } from '../stream/destroy-stream.ts';
import { StreamReader } from '../stream/stream-reader.ts';
import { StreamWriter } from '../stream/stream-writer.ts';

/**
 * Make a backend of the reading end of a pipe.
 *
 * @param stream - The stream over the descriptor.
 * @param fd - What `getFd()` returns until `close()`.
 * @param isShared - True for a stream of the process, such as `process.stdin`: `close()` then only detaches
 *   from the stream, and returns unread bytes to it.
 */
export function readPipeOps(stream: Readable, fd: number, isShared: boolean): ReadOps {
  const reader = new StreamReader(stream, 'EIO');
  let isClosed = false;
  return {
    getBuffer: (buffer, position) => reader.read(position, buffer),
    close: async () => {
      if (isClosed) return;
      isClosed = true;
      if (isShared) {
        reader.release();
      } else {
        reader.close();
        await destroyStream(stream);
      }
    },
    shutDown: (read) => {
      if (read) reader.close();
    },
    getFd: () => (isClosed ? -1 : fd),
  };
}

/**
 * Make a backend of the writing end of a pipe.
 *
 * @param stream - The stream over the descriptor.
 * @param fd - What `getFd()` returns until `close()`.
 * @param isShared - True for a stream of the process, such as `process.stdout`, which is never ended.
 */
export function writePipeOps(stream: Writable, fd: number, isShared: boolean): WriteOps {
  const end = new WritingEnd(stream, isShared);
  return {
    writevBuffer: (buffers, position) => end.writer.writev(buffers, position),
    close: (error) => end.close(error),
    shutDown: (_, write) => (write ? end.shutDown() : undefined),
    getFd: () => (end.isClosed ? -1 : fd),
    sizes: PIPE_SIZES,
  };
}

/** The writing end of a pipe. It ends in order only when no batch is cut off. */
class WritingEnd {
  readonly writer: StreamWriter;
  readonly #stream: Writable;
  readonly #isShared: boolean;
  #ending: Promise<void> | undefined;
  #wasCutOff = false;
  #closing: Promise<void> | undefined;

  constructor(stream: Writable, isShared: boolean) {
    this.#stream = stream;
    this.#isShared = isShared;
    this.writer = new StreamWriter(stream);
  }

  get isClosed(): boolean {
    return this.#closing !== undefined;
  }

  shutDown(): MaybePromise<void> {
    if (!this.#hasPendingBatch) return this.#end();
    this.#wasCutOff = true;
    this.writer.close();
  }

  close(error?: Error): Promise<void> {
    this.#closing ??= this.#close(error);
    return this.#closing;
  }

  async #close(error?: Error): Promise<void> {
    const endsInOrder = !this.#wasCutOff && error === undefined;
    const failure = endsInOrder ? await this.#endInOrder() : undefined;
    this.writer.close();
    if (!this.#isShared) await destroyStream(this.#stream);
    if (failure !== undefined) throw failure;
  }

  async #endInOrder(): Promise<QemuFileError | undefined> {
    if (this.#hasPendingBatch) {
      return new QemuFileError('ECANCELED', 'closed before the last batch was written', {
        operation: 'close',
      });
    }
    try {
      await this.#end();
      return undefined;
    } catch (error) {
      return toQemuFileError(error, { operation: 'close' });
    }
  }

  #end(): Promise<void> {
    if (this.#isShared) {
      this.writer.close();
      return Promise.resolve();
    }
    this.#ending ??= this.writer.end();
    return this.#ending;
  }

  /** True while a batch is pending that an end would cut off. */
  get #hasPendingBatch(): boolean {
    return this.writer.pending && this.#ending === undefined;
  }
}
