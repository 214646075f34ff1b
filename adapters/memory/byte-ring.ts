import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise } from '../../lib/contract/ops.ts';
import { noop } from '../../lib/util/noop.ts';

interface WaitingRead {
  readonly buffer: Uint8Array;
  readonly resolve: (count: number) => void;
  readonly reject: (error: QemuFileError) => void;
}

interface WaitingWrite {
  readonly buffers: readonly Uint8Array[];
  readonly total: number;
  /** Where in `buffers` the bytes begin that did not fit yet. */
  index: number;
  offset: number;
  readonly resolve: (count: number) => void;
  readonly reject: (error: QemuFileError) => void;
}

/**
 * One direction of a connection inside the process: a ring of a fixed number of bytes, as the kernel's
 * pipe is. What does not fit stays in the writer's own buffers, so no write can make the process grow.
 */
export class ByteRing {
  readonly #capacity: number;
  /** Made at the first write: one direction of a pair often stays unused. */
  #ring: Uint8Array | undefined;
  #head = 0;
  #size = 0;
  #waitingRead: WaitingRead | undefined;
  #waitingWrite: WaitingWrite | undefined;
  #writerGone = false;
  #readerGone = false;
  /** What a read fails with after the bytes that were stored before. */
  #readFailure: string | undefined;
  /** What a write fails with. */
  #writeFailure: string | undefined;

  /** @param capacity - Bytes that may be stored. */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Takes stored bytes, or waits for some; 0 is the end. */
  read(buffer: Uint8Array): MaybePromise<number> {
    if (this.#readerGone) throw readShutError();
    if (this.#size > 0) {
      const count = this.#take(buffer);
      this.#refill();
      return count;
    }
    if (this.#readFailure !== undefined) throw readError(this.#readFailure);
    if (this.#writerGone) return 0;
    return new Promise((resolve, reject) => {
      this.#waitingRead = { buffer, resolve, reject };
    });
  }

  /** Stores all bytes; answers at once if they fit, else when the reader has made room for the last. */
  write(buffers: readonly Uint8Array[]): MaybePromise<number> {
    if (this.#writeFailure !== undefined) throw writeError(this.#writeFailure);
    let total = 0;
    for (const buffer of buffers) total += buffer.length;
    const write = { buffers, total, index: 0, offset: 0, resolve: noop, reject: noop };
    if (this.#store(write)) return total;
    return new Promise((resolve, reject) => {
      this.#waitingWrite = { ...write, resolve, reject };
    });
  }

  /** Wakes a waiting read with an error, and takes no byte for it. */
  cancelRead(error: QemuFileError): void {
    this.#waitingRead?.reject(error);
    this.#waitingRead = undefined;
  }

  /**
   * The writer leaves. Its reader gets the stored bytes, and then the end: or an error, if a code is
   * given or a write was cut off. An end that was announced before stays one.
   */
  closeWriter(code?: string): void {
    if (this.#writerGone) return;
    this.#writerGone = true;
    this.#writeFailure ??= 'EPIPE';
    const cutOff = this.#waitingWrite;
    this.#waitingWrite = undefined;
    cutOff?.reject(
      new QemuFileError('ECANCELED', 'writing was shut down', {
        operation: 'writevBuffer',
      }),
    );
    this.#readFailure = code ?? (cutOff === undefined ? undefined : 'ECONNRESET');
    const waiting = this.#waitingRead;
    this.#waitingRead = undefined;
    if (this.#readFailure === undefined) waiting?.resolve(0);
    else waiting?.reject(readError(this.#readFailure));
  }

  /** The reader leaves: its own reads fail with `ECANCELED`, and writes with `code`. */
  closeReader(code = 'EPIPE'): void {
    if (this.#readerGone) return;
    this.#readerGone = true;
    this.#writeFailure = code;
    this.#ring = undefined;
    this.#size = 0;
    this.cancelRead(readShutError());
    this.#waitingWrite?.reject(writeError(code));
    this.#waitingWrite = undefined;
  }

  /** Stores what fits and says whether that was all. */
  #store(write: Pick<WaitingWrite, 'buffers' | 'index' | 'offset'>): boolean {
    while (write.index < write.buffers.length) {
      const buffer = write.buffers[write.index] as Uint8Array;
      if (write.offset === buffer.length) {
        write.index += 1;
        write.offset = 0;
        continue;
      }
      if (this.#size === this.#capacity) {
        if (this.#waitingRead === undefined) return false;
        this.#serveWaitingRead();
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
    this.#serveWaitingRead();
    return true;
  }

  #serveWaitingRead(): void {
    const waiting = this.#waitingRead;
    if (waiting === undefined || this.#size === 0) return;
    this.#waitingRead = undefined;
    waiting.resolve(this.#take(waiting.buffer));
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
    const waiting = this.#waitingWrite;
    if (waiting === undefined || !this.#store(waiting)) return;
    this.#waitingWrite = undefined;
    waiting.resolve(waiting.total);
  }
}

function readShutError(): QemuFileError {
  return new QemuFileError('ECANCELED', 'reading was shut down', { operation: 'getBuffer' });
}

function readError(code: string): QemuFileError {
  return new QemuFileError(code, 'the other end broke the connection', { operation: 'getBuffer' });
}

function writeError(code: string): QemuFileError {
  return new QemuFileError(code, 'the other end takes no more bytes', {
    operation: 'writevBuffer',
  });
}
