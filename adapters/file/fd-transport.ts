import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, Whence } from '../../lib/contract/ops.ts';
import { type Failure, failure } from '../stream/stream-failure.ts';
import { CallsInFlight } from './calls-in-flight.ts';
import { FdReader } from './fd-reader.ts';
import { FdWriter } from './fd-writer.ts';
import { closeFd } from './fs-promises.ts';

/** Largest read into memory of our own, where a read may outlive its answer. */
const OWN_READ_SIZE = 64 * 1024;

const SHUT_DOWN = failure('ECANCELED', 'the descriptor was shut down');
const CLOSED = failure('EBADF', 'the descriptor is closed');

/** How a descriptor is used; the public options, with their defaults filled in. */
export interface FdUse {
  reads: boolean;
  writes: boolean;
  /** Where both directions start; `null` leaves it to the descriptor's own offset. */
  offset: number | null;
  /** Whether close() closes the descriptor. */
  owned: boolean;
}

/** A descriptor in use: its two directions, its offset, and its end. */
export class FdTransport {
  readonly fd: number;
  readonly #use: FdUse;
  readonly #size: (() => number) | undefined;
  readonly #calls = new CallsInFlight();
  readonly #reader: FdReader;
  readonly #writer: FdWriter;
  /** Reads and writes at an offset of their own that are not answered. */
  readonly #aside = new Set<FdReader | FdWriter>();
  #blocking = false;
  #failed: Error | undefined;
  #stopped: Failure | undefined;
  #closing: Promise<void> | undefined;

  /**
   * @param fd - An open descriptor.
   * @param use - What for.
   * @param size - Gives the number of bytes behind it; absent where that cannot be told.
   */
  constructor(fd: number, use: FdUse, size?: () => number) {
    this.fd = fd;
    this.#use = use;
    this.#size = size;
    this.#reader = new FdReader(fd, this.#calls, use.offset);
    this.#writer = new FdWriter(fd, this.#calls, use.offset);
  }

  /** The descriptor, or -1 once it is closed. */
  getFd(): number {
    return this.#closing === undefined ? this.fd : -1;
  }

  setBlocking(blocking: boolean): void {
    this.#blocking = blocking;
    this.#reader.blocking = blocking;
    this.#writer.blocking = blocking;
  }

  read(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    if (this.#use.offset !== null || this.#blocking) return this.#reader.read(buffer, position);
    // A read from a device or a pipe may hang in its thread, and close() does not wait for it: so it
    // must not have the caller's memory, which the caller may use again by then.
    const own = new Uint8Array(Math.min(buffer.length, OWN_READ_SIZE));
    const answer = this.#reader.read(own, position);
    if (typeof answer === 'number') return answer;
    return answer.then((length) => own.subarray(0, length));
  }

  writev(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    return this.#note(() => this.#writer.writev(buffers, position));
  }

  getOffset(): number {
    this.#checkOpen('getOffset');
    return this.#main.offset ?? 0;
  }

  setOffset(offset: number, whence: Whence): number {
    this.#checkOpen('setOffset');
    if (this.#reader.pending || this.#writer.pending) {
      throw new QemuFileError('EBUSY', 'a read or a write is not answered yet', {
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
    this.#checkAside('getBufferAt', offset);
    const reader = new FdReader(this.fd, this.#calls, offset, 'getBufferAt');
    reader.blocking = this.#blocking;
    this.#aside.add(reader);
    try {
      let done = 0;
      while (done < buffer.length) {
        const length = await reader.read(buffer.subarray(done), offset + done);
        if (length === 0) break;
        done += length;
      }
      return done;
    } finally {
      this.#aside.delete(reader);
    }
  }

  async writeAt(buffer: Uint8Array, offset: number): Promise<number> {
    this.#checkAside('putBufferAt', offset);
    const writer = new FdWriter(this.fd, this.#calls, offset, 'putBufferAt');
    writer.blocking = this.#blocking;
    this.#aside.add(writer);
    try {
      return await this.#note(() => writer.writev([buffer], offset));
    } finally {
      this.#aside.delete(writer);
    }
  }

  /** Ends directions: what waits in them fails, and so does all that comes later. */
  shutDown(read: boolean, write: boolean): void {
    if (read && this.#use.reads) this.#reader.stop(SHUT_DOWN, this.#mayHang);
    if (write && this.#use.writes) this.#writer.stop(SHUT_DOWN, this.#mayHang);
    if ((read || !this.#use.reads) && (write || !this.#use.writes)) this.#stopAside(SHUT_DOWN);
  }

  /**
   * Ends all, waits for what threads work on (a file answers soon; for anything else they finish on
   * their own), and closes the descriptor. A second call gives the first one's answer.
   *
   * @param finish - What to do before that, given the error of the first write that failed, if any.
   */
  close(finish?: (failed: Error | undefined) => Promise<void>): Promise<void> {
    this.#closing ??= this.#close(finish);
    return this.#closing;
  }

  async #close(finish?: (failed: Error | undefined) => Promise<void>): Promise<void> {
    this.#reader.stop(CLOSED, this.#mayHang);
    this.#writer.stop(CLOSED, this.#mayHang);
    this.#stopAside(CLOSED);
    if (!this.#mayHang) await this.#calls.idle();
    try {
      await finish?.(this.#failed);
    } finally {
      await this.#closeFd();
    }
  }

  #closeFd(): Promise<void> {
    if (!this.#use.owned) return Promise.resolve();
    const isIdle = this.#calls.isIdle;
    const closed = this.#calls.idle().then(async () => {
      try {
        await closeFd(this.fd);
      } catch (error) {
        throw toQemuFileError(error, { operation: 'close' });
      }
    });
    if (isIdle) return closed;
    // Nobody is left to hear of an error once the hanging call returns.
    closed.catch(() => {});
    return Promise.resolve();
  }

  /** Whether a call on the descriptor may take for ever, as those on pipes and terminals do. */
  get #mayHang(): boolean {
    return this.#use.offset === null;
  }

  get #main(): FdReader | FdWriter {
    return this.#use.writes ? this.#writer : this.#reader;
  }

  #origin(whence: Whence): number {
    if (whence === 'set') return 0;
    if (whence === 'current') return this.#main.offset ?? 0;
    if (this.#size !== undefined) return this.#size();
    throw new QemuFileError('ENOTSUP', 'the size of a device is not known', {
      operation: 'setOffset',
    });
  }

  #stopAside(why: Failure): void {
    this.#stopped ??= why;
    for (const one of this.#aside) one.stop(why);
  }

  #checkOpen(operation: string): void {
    if (this.#closing !== undefined) throw CLOSED(operation, undefined);
  }

  #checkAside(operation: string, offset: number): void {
    this.#checkOpen(operation);
    if (this.#stopped !== undefined) throw this.#stopped(operation, offset);
    if (Number.isSafeInteger(offset) && offset >= 0) return;
    throw new QemuFileError('EINVAL', `${offset} is not an offset`, { operation });
  }

  /** Does a write, and remembers its failure: what was written is not whole then. */
  #note(write: () => MaybePromise<number>): MaybePromise<number> {
    if (this.#closing !== undefined) return write();
    const remember = (error: unknown): never => {
      this.#failed ??= toQemuFileError(error);
      throw error;
    };
    try {
      const answer = write();
      return typeof answer === 'number' ? answer : answer.then(undefined, remember);
    } catch (error) {
      return remember(error);
    }
  }
}
