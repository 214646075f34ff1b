import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, Whence } from '../../lib/contract/ops.ts';
import { noop } from '../../lib/util/noop.ts';
import { type Failure, failure } from '../stream/stream-failure.ts';
import { CallsInFlight } from './calls-in-flight.ts';
import { FdReader } from './fd-reader.ts';
import { FdWriter, type SparseFile } from './fd-writer.ts';
import { closeFd, truncateFd } from './fs-promises.ts';
import { InlineReads } from './inline-reads.ts';

/** Largest read into memory of our own, where a read may outlive the operation that started it. */
const MAX_OWN_READ_BYTES = 64 * 1024;

const SHUT_DOWN = failure('ECANCELED', 'the descriptor was shut down');
const CLOSED = failure('EBADF', 'the descriptor is closed');

/** How a descriptor is used: the public options with their defaults filled in. */
export interface FdUse {
  canRead: boolean;
  canWrite: boolean;
  /** File offset at which both directions start; `null` uses the descriptor's own offset. */
  offset: number | null;
  /** True if close() closes the descriptor. */
  isOwned: boolean;
  /** True for a new and empty file in which runs of zeros become holes. */
  isSparse: boolean;
  /** True if reads of a file may run on the calling thread. */
  canReadInline: boolean;
}

/** A descriptor in use: its two directions, their offsets, and its end. */
export class FdTransport {
  readonly fd: number;
  readonly #use: FdUse;
  readonly #size: () => number;
  readonly #inFlight = new CallsInFlight();
  readonly #reader: FdReader;
  readonly #writer: FdWriter;
  readonly #inlineReads = new InlineReads();
  readonly #sparse: SparseFile | undefined;
  /** Pending reads and writes at an explicit offset. */
  readonly #positional = new Set<FdReader | FdWriter>();
  /** Error of new reads and writes at an explicit offset. */
  #positionalFailure: Failure | undefined;
  #isBlocking = false;
  #firstWriteError: Error | undefined;
  #closing: Promise<void> | undefined;

  /**
   * @param fd - An open descriptor.
   * @param use - How it is used.
   * @param size - Returns the size of the file or device in bytes; only called if `use.offset` is not null.
   */
  constructor(fd: number, use: FdUse, size: () => number) {
    this.fd = fd;
    this.#use = use;
    this.#size = size;
    this.#reader = new FdReader(fd, this.#inFlight, use.offset);
    this.#sparse = use.isSparse ? { end: 0 } : undefined;
    this.#writer = new FdWriter(fd, this.#inFlight, use.offset, 'writevBuffer', this.#sparse);
  }

  /** Return the descriptor, or -1 once it is closed. */
  getFd(): number {
    return this.#closing === undefined ? this.fd : -1;
  }

  setBlocking(isBlocking: boolean): void {
    this.#isBlocking = isBlocking;
    this.#reader.isBlocking = isBlocking;
    this.#writer.isBlocking = isBlocking;
  }

  read(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    const { offset, canReadInline } = this.#use;
    if (offset !== null && canReadInline && !this.#isBlocking) {
      return this.#readFile(buffer, position);
    }
    if (offset !== null || this.#isBlocking) return this.#reader.read(buffer, position);
    // A read from a device or a pipe may hang in its thread, and close() does not wait for it. Such a read
    // must not use the caller's memory, because the caller may reuse that memory after close().
    const own = new Uint8Array(Math.min(buffer.length, MAX_OWN_READ_BYTES));
    const result = this.#reader.read(own, position);
    if (typeof result === 'number') return result;
    return result.then((length) => own.subarray(0, length));
  }

  /** Read a file, on the calling thread where that returns at once. */
  #readFile(buffer: Uint8Array, position: number): MaybePromise<number> {
    const mode = this.#inlineReads.next();
    if (mode === 'inPool') return this.#reader.read(buffer, position);
    if (mode === 'nextTurn') return this.#reader.readNextTurn(buffer, position);
    const startedAt = performance.now();
    const length = this.#reader.readNow(buffer, position);
    this.#inlineReads.took(performance.now() - startedAt);
    return length;
  }

  writev(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    return this.#recordFailure(() => this.#writer.writev(buffers, position));
  }

  getOffset(): number {
    this.#checkOpen('getOffset');
    return this.#main.offset ?? 0;
  }

  setOffset(offset: number, whence: Whence): number {
    this.#checkOpen('setOffset');
    if (this.#reader.isPending || this.#writer.isPending) {
      throw new QemuFileError('EBUSY', 'a read or a write has not settled yet', {
        operation: 'setOffset',
      });
    }
    const target = this.#origin(whence) + offset;
    if (!Number.isSafeInteger(target) || target < 0) {
      throw new QemuFileError('EINVAL', `${target} is not an offset`, { operation: 'setOffset' });
    }
    this.#reader.offset = target;
    this.#writer.offset = target;
    return target;
  }

  async readAt(buffer: Uint8Array, offset: number): Promise<number> {
    this.#checkPositional('getBufferAt', offset);
    const reader = new FdReader(this.fd, this.#inFlight, offset, 'getBufferAt');
    reader.isBlocking = this.#isBlocking;
    this.#positional.add(reader);
    try {
      let done = 0;
      while (done < buffer.length) {
        const length = await reader.read(buffer.subarray(done), offset + done);
        if (length === 0) break;
        done += length;
      }
      return done;
    } finally {
      this.#positional.delete(reader);
    }
  }

  async writeAt(buffer: Uint8Array, offset: number): Promise<number> {
    this.#checkPositional('putBufferAt', offset);
    const writer = new FdWriter(this.fd, this.#inFlight, offset, 'putBufferAt');
    writer.isBlocking = this.#isBlocking;
    this.#positional.add(writer);
    // Set before the write, so that zeros which are written later to the same place are not left out.
    if (this.#sparse) this.#sparse.end = Math.max(this.#sparse.end, offset + buffer.length);
    try {
      return await this.#recordFailure(() => writer.writev([buffer], offset));
    } finally {
      this.#positional.delete(writer);
    }
  }

  /** End directions: their pending and later operations fail with `ECANCELED`. */
  shutDown(read: boolean, write: boolean): void {
    const { canRead, canWrite } = this.#use;
    if (read && canRead) this.#reader.stop(SHUT_DOWN, this.#canHang);
    if (write && canWrite) this.#writer.stop(SHUT_DOWN, this.#canHang);
    if ((read || !canRead) && (write || !canWrite)) this.#stopPositional(SHUT_DOWN);
  }

  /**
   * Stop both directions, wait for calls that are running in the thread pool, and close the descriptor. Calls on
   * files return soon; for other descriptors, close() does not wait. A second call returns the first result.
   *
   * @param finish - Called before the descriptor is closed, with the error of the first write that failed.
   */
  close(finish?: (writeError: Error | undefined) => Promise<void>): Promise<void> {
    this.#closing ??= this.#close(finish);
    return this.#closing;
  }

  async #close(finish?: (writeError: Error | undefined) => Promise<void>): Promise<void> {
    this.#reader.stop(CLOSED, this.#canHang);
    this.#writer.stop(CLOSED, this.#canHang);
    this.#stopPositional(CLOSED);
    if (!this.#canHang) await this.#inFlight.idle();
    try {
      await this.#setLength();
      await finish?.(this.#firstWriteError);
    } finally {
      await this.#closeFd();
    }
  }

  /** Extend a sparse file to its end. Never rejects: a failure counts as that of a write. */
  async #setLength(): Promise<void> {
    if (this.#sparse === undefined) return;
    const position = this.#sparse.end;
    try {
      if (this.#size() < position) await truncateFd(this.fd, position);
    } catch (error) {
      this.#firstWriteError ??= toQemuFileError(error, { operation: 'close', position });
    }
  }

  #closeFd(): Promise<void> {
    if (!this.#use.isOwned) return Promise.resolve();
    const isIdle = this.#inFlight.isIdle;
    const closed = this.#inFlight.idle().then(async () => {
      try {
        await closeFd(this.fd);
      } catch (error) {
        throw toQemuFileError(error, { operation: 'close' });
      }
    });
    if (isIdle) return closed;
    // close() returns before the hanging call does, so its caller can no longer receive an error.
    closed.catch(noop);
    return Promise.resolve();
  }

  /** True if a call on the descriptor may never return, as on pipes and terminals. */
  get #canHang(): boolean {
    return this.#use.offset === null;
  }

  /** The direction whose offset `getOffset()` returns. */
  get #main(): FdReader | FdWriter {
    return this.#use.canWrite ? this.#writer : this.#reader;
  }

  #origin(whence: Whence): number {
    if (whence === 'set') return 0;
    if (whence === 'current') return this.#main.offset ?? 0;
    return Math.max(this.#size(), this.#sparse?.end ?? 0);
  }

  #stopPositional(failure: Failure): void {
    this.#positionalFailure ??= failure;
    for (const operation of this.#positional) operation.stop(failure);
  }

  #checkOpen(operation: string): void {
    if (this.#closing !== undefined) throw CLOSED(operation, undefined);
  }

  #checkPositional(operation: string, offset: number): void {
    this.#checkOpen(operation);
    if (this.#positionalFailure !== undefined) throw this.#positionalFailure(operation, offset);
    if (Number.isSafeInteger(offset) && offset >= 0) return;
    throw new QemuFileError('EINVAL', `${offset} is not an offset`, { operation });
  }

  /** Write, and record the first failure: close() must know that the file is not complete. */
  #recordFailure(write: () => MaybePromise<number>): MaybePromise<number> {
    if (this.#closing !== undefined) return write();
    const record = (error: unknown): never => {
      this.#firstWriteError ??= toQemuFileError(error);
      throw error;
    };
    try {
      const result = write();
      return typeof result === 'number' ? result : result.then(undefined, record);
    } catch (error) {
      return record(error);
    }
  }
}
