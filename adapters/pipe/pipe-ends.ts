import type { Readable, Writable } from 'node:stream';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../lib/contract/ops.ts';
import { PIPE_SIZES } from '../shared/sizes.ts';
import { destroyStream, StreamReader, StreamWriter } from '../stream/destroy-stream.ts';

/** What every table over a pipe has. */
export interface PipeOps extends QemuFileOps {
  close(error?: Error): Promise<void>;
  shutDown(read: boolean, write: boolean): MaybePromise<void>;
  getFd(): number;
}

/** The reading end of a pipe. */
export interface PipeReadOps extends PipeOps {
  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array>;
  writevBuffer?: never;
}

/** The writing end of a pipe. */
export interface PipeWriteOps extends PipeOps {
  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number>;
  getBuffer?: never;
}

/**
 * A table over the reading end of a pipe.
 *
 * @param stream - Over the descriptor.
 * @param fd - What `getFd` gives until `close()`.
 * @param isShared - Whether the stream is the process's own: `close()` then only lets go of it, and
 *   what was read ahead goes back into it.
 */
export function readTable(stream: Readable, fd: number, isShared: boolean): PipeReadOps {
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
 * A table over the writing end of a pipe.
 *
 * @param stream - Over the descriptor.
 * @param fd - What `getFd` gives until `close()`.
 * @param isShared - Whether the stream is the process's own: it is then never ended.
 */
export function writeTable(stream: Writable, fd: number, isShared: boolean): PipeWriteOps {
  const end = new WritingEnd(stream, isShared);
  return {
    writevBuffer: (buffers, position) => end.writer.writev(buffers, position),
    close: (error) => end.close(error),
    shutDown: (_, write) => (write ? end.shutDown() : undefined),
    getFd: () => (end.isClosed ? -1 : fd),
    sizes: PIPE_SIZES,
  };
}

class WritingEnd {
  readonly writer: StreamWriter;
  readonly #stream: Writable;
  readonly #isShared: boolean;
  #ending: Promise<void> | undefined;
  #wasCut = false;
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
    if (!this.#cutsBatch) return this.#end();
    this.#wasCut = true;
    this.writer.close();
  }

  close(error?: Error): Promise<void> {
    this.#closing ??= this.#close(error);
    return this.#closing;
  }

  async #close(error?: Error): Promise<void> {
    const isCut = this.#wasCut || error !== undefined;
    const failure = isCut ? undefined : await this.#endInOrder();
    this.writer.close();
    if (!this.#isShared) await destroyStream(this.#stream);
    if (failure !== undefined) throw failure;
  }

  async #endInOrder(): Promise<QemuFileError | undefined> {
    if (this.#cutsBatch) {
      return new QemuFileError('ECANCELED', 'closed in the middle of a batch', {
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

  get #cutsBatch(): boolean {
    return this.writer.pending && this.#ending === undefined;
  }
}
