import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { noop } from '../../lib/util/noop.ts';
import { totalLength } from '../../lib/util/total-length.ts';

interface PendingRead {
  readonly buffer: Uint8Array;
  readonly resolve: (count: number) => void;
  readonly reject: (error: QemuFileError) => void;
}

interface PendingWrite {
  readonly buffers: readonly Uint8Array[];
  readonly total: number;
  /** Index and offset in `buffers` of the first byte that is not stored yet. */
  index: number;
  offset: number;
  readonly resolve: (count: number) => void;
  readonly reject: (error: QemuFileError) => void;
}

/**
 * One direction of a connection within the process: a ring of fixed size, as the kernel uses for a pipe. Bytes
 * that do not fit stay in the writer's buffers, so that a write cannot increase the memory of the process.
 */
export class ByteRing {
  readonly #capacity: number;
  /** Allocated by the first write, because one direction of a pair often stays unused. */
  #ring: Uint8Array | undefined;
  #head = 0;
  #size = 0;
  #pendingRead: PendingRead | undefined;
  #pendingWrite: PendingWrite | undefined;
  #isWriterClosed = false;
  #isReaderClosed = false;
  /** Errno name with which reads fail after the stored bytes. */
  #readFailure: string | undefined;
  /** Errno name with which writes fail. */
  #writeFailure: string | undefined;

  /** @param capacity - Greatest number of stored bytes. */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Read stored bytes, or wait for some. @returns The number of bytes; 0 at the end. */
  read(buffer: Uint8Array): MaybePromise<number> {
    if (this.#isReaderClosed) throw readShutError();
    if (this.#size > 0) {
      const count = this.#take(buffer);
      this.#refill();
      return count;
    }
    if (this.#readFailure !== undefined) throw readError(this.#readFailure);
    if (this.#isWriterClosed) return 0;
    return new Promise((resolve, reject) => {
      this.#pendingRead = { buffer, resolve, reject };
    });
  }

  /** Store all bytes: synchronously if they fit, otherwise as the reader makes room. @returns Their number. */
  write(buffers: readonly Uint8Array[]): MaybePromise<number> {
    if (this.#writeFailure !== undefined) throw writeError(this.#writeFailure);
    const total = totalLength(buffers);
    const write = { buffers, total, index: 0, offset: 0, resolve: noop, reject: noop };
    if (this.#store(write)) return total;
    return new Promise((resolve, reject) => {
      this.#pendingWrite = { ...write, resolve, reject };
    });
  }

  /** Reject the pending read without consuming a byte. */
  cancelRead(error: QemuFileError): void {
    this.#pendingRead?.reject(error);
    this.#pendingRead = undefined;
  }

  /**
   * Close the writing side. Reads return the stored bytes and then the end, or an error if `code` is given or a
   * write was pending. A second call has no effect, so an end that was reported stays one.
   *
   * @param code - Errno name with which reads fail.
   */
  closeWriter(code?: string): void {
    if (this.#isWriterClosed) return;
    this.#isWriterClosed = true;
    this.#writeFailure ??= 'EPIPE';
    const pending = this.#pendingWrite;
    this.#pendingWrite = undefined;
    pending?.reject(
      new QemuFileError('ECANCELED', 'writing was shut down', {
        operation: 'writevBuffer',
      }),
    );
    this.#readFailure = code ?? (pending === undefined ? undefined : 'ECONNRESET');
    const read = this.#pendingRead;
    this.#pendingRead = undefined;
    if (this.#readFailure === undefined) read?.resolve(0);
    else read?.reject(readError(this.#readFailure));
  }

  /** Close the reading side: reads fail with `ECANCELED`, and writes with `code`. */
  closeReader(code = 'EPIPE'): void {
    if (this.#isReaderClosed) return;
    this.#isReaderClosed = true;
    this.#writeFailure = code;
    this.#ring = undefined;
    this.#size = 0;
    this.cancelRead(readShutError());
    this.#pendingWrite?.reject(writeError(code));
    this.#pendingWrite = undefined;
  }

  /** Store the bytes that fit. @returns Whether all bytes are stored. */
  #store(write: Pick<PendingWrite, 'buffers' | 'index' | 'offset'>): boolean {
    while (write.index < write.buffers.length) {
      const buffer = write.buffers[write.index] as Uint8Array;
      if (write.offset === buffer.length) {
        write.index += 1;
        write.offset = 0;
        continue;
      }
      if (this.#size === this.#capacity) {
        if (this.#pendingRead === undefined) return false;
        this.#servePendingRead();
        continue;
      }
      this.#ring ??= new Uint8Array(this.#capacity);
      const tail = (this.#head + this.#size) % this.#capacity;
      const room = Math.min(this.#capacity - this.#size, this.#capacity - tail);
      const piece = buffer.subarray(write.offset, write.offset + room);
      this.#ring.set(piece, tail);
      this.#size += piece.length;
      write.offset += piece.length;
    }
    this.#servePendingRead();
    return true;
  }

  #servePendingRead(): void {
    const read = this.#pendingRead;
    if (read === undefined || this.#size === 0) return;
    this.#pendingRead = undefined;
    read.resolve(this.#take(read.buffer));
  }

  #take(buffer: Uint8Array): number {
    const ring = this.#ring as Uint8Array;
    let taken = 0;
    while (taken < buffer.length && this.#size > 0) {
      const stored = Math.min(this.#size, this.#capacity - this.#head, buffer.length - taken);
      buffer.set(ring.subarray(this.#head, this.#head + stored), taken);
      this.#head = (this.#head + stored) % this.#capacity;
      this.#size -= stored;
      taken += stored;
    }
    return taken;
  }

  #refill(): void {
    const write = this.#pendingWrite;
    if (write === undefined || !this.#store(write)) return;
    this.#pendingWrite = undefined;
    write.resolve(write.total);
  }
}

function readShutError(): QemuFileError {
  return new QemuFileError('ECANCELED', 'reading was shut down', { operation: 'getBuffer' });
}

function readError(code: string): QemuFileError {
  return new QemuFileError(code, 'the peer broke the connection', { operation: 'getBuffer' });
}

function writeError(code: string): QemuFileError {
  return new QemuFileError(code, 'the peer has closed its reading side', {
    operation: 'writevBuffer',
  });
}
