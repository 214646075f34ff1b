import { inspect } from 'node:util';
import { backendError, markHandled } from '../contract/backend-result.ts';
import { QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { MaybePromise, QemuFileOps, Whence } from '../contract/ops.ts';
import type { WaitOptions } from './options.ts';
import { QemuFileGet } from './typed-gets.ts';
import { checkAttached } from './typed-puts.ts';

function checkOffset(offset: number, operation: string): void {
  if (!(Number.isSafeInteger(offset) && offset >= 0)) {
    throw new RangeError(`${operation}: ${offset} is not an offset in bytes`);
  }
}

/** Positions in the stream, and offsets of backends that can seek; use `QemuFile`. */
export class QemuFilePosition extends QemuFileGet {
  /** Bytes of `putBufferAt`. */
  #putAt = 0;

  /**
   * Flushes, then gives the position. @see QEMU `qemu_ftell`
   *
   * @param options - `signal` ends the wait.
   * @returns As `tellFast`, with nothing left unflushed.
   * @throws {QemuFileError} (rejects) as `flush`.
   */
  tell(options?: WaitOptions): Promise<number> {
    return markHandled(this.flush(options).then(() => this.tellFast()));
  }

  /**
   * Gives the position without any effect. @see QEMU `qemu_ftell_fast`
   *
   * @returns On a file that can be written, the offset after the last byte put; else the number of bytes
   *   fetched from the backend, look-ahead included.
   */
  tellFast(): number {
    return this.puts ? this.putHalf.putPosition : this.getHalf.fetched;
  }

  /** Offset in the stream of the next byte to get: what was consumed so far. */
  get getPosition(): number {
    return this.getHalf.position;
  }

  /** Offset in the stream after the last byte put. */
  get putPosition(): number {
    return this.putHalf.putPosition;
  }

  /**
   * Moves the put position for bytes that travelled outside of the file. @see QEMU `qemu_update_position`
   *
   * @param bytes - How many, not negative.
   */
  updatePosition(bytes: number): void {
    if (!(Number.isSafeInteger(bytes) && bytes >= 0)) {
      throw new RangeError(`updatePosition: ${bytes} is not a number of bytes`);
    }
    this.putHalf.skipPosition(bytes);
  }

  /**
   * Bytes sent and still queued, those of `putBufferAt` included, as later QEMU counts them.
   * @see QEMU `qemu_file_transferred`
   */
  transferred(): number {
    return this.putHalf.putPosition + this.#putAt;
  }

  /**
   * Moves the transport's offset: flushes what was put, forgets what was looked ahead, then seeks.
   * @see QEMU `qemu_set_offset`
   *
   * @param offset - In bytes; negative only from `'current'` and `'end'`, else RangeError.
   * @param whence - Default `'set'`, from the start.
   * @returns The new offset from the start.
   * @throws {QemuFileError} (rejects) `ESPIPE` if the backend cannot seek; its failure, latched.
   */
  setOffset(offset: number, whence: Whence = 'set'): Promise<number> {
    return markHandled(this.#setOffset(offset, whence));
  }

  /**
   * Gives the transport's own offset, after flushing; on a reader that is after the look-ahead.
   * @see QEMU `qemu_get_offset`
   *
   * @throws {QemuFileError} (rejects) `ESPIPE` if the backend cannot seek; its failure, latched.
   */
  getOffset(): Promise<number> {
    return markHandled(this.#getOffset());
  }

  /**
   * Writes bytes at an offset, after flushing, without moving the stream. @see QEMU `qemu_put_buffer_at`
   *
   * @param bytes - Must stay as they are until the promise settles.
   * @param offset - In bytes from the start of the transport.
   * @throws {QemuFileError} (rejects) `ESPIPE` if the backend cannot seek; its failure, and `EIO` for a
   *   short write, latched. TypeError if the buffer is detached, RangeError for a negative offset.
   */
  putBufferAt(bytes: Uint8Array, offset: number): Promise<void> {
    return markHandled(this.#putBufferAt(bytes, offset));
  }

  /**
   * Reads bytes from an offset, past the look-ahead, without moving the stream. @see QEMU `qemu_get_buffer_at`
   *
   * @param target - A buffer to fill wholly.
   * @param offset - In bytes from the start of the transport.
   * @returns The number of bytes read, that of the target.
   * @throws {QemuFileError} (rejects) `ESPIPE` if the backend cannot seek; its failure, and `EIO` at the
   *   end, latched. TypeError if the buffer is detached, RangeError for a negative offset.
   */
  getBufferAt(target: Uint8Array, offset: number): Promise<number> {
    return markHandled(this.#getBufferAt(target, offset));
  }

  async #setOffset(offset: number, whence: Whence): Promise<number> {
    if (whence === 'set' || !Number.isSafeInteger(offset)) checkOffset(offset, 'setOffset');
    await this.flush();
    const seek = this.#seekable('setOffset');
    let reached = -1;
    // An answer that is under way must not be taken for bytes from the new offset.
    await this.getHalf.moving();
    try {
      reached = await this.#latching('setOffset', offset, () => seek(offset, whence));
    } finally {
      this.getHalf.moved(reached >= 0);
    }
    return reached;
  }

  async #getOffset(): Promise<number> {
    await this.flush();
    const offset = this.#seekable('getOffset');
    return this.#latching('getOffset', undefined, () => offset());
  }

  async #putBufferAt(bytes: Uint8Array, offset: number): Promise<void> {
    checkAttached(bytes, 'putBufferAt');
    checkOffset(offset, 'putBufferAt');
    await this.flush();
    const write = this.#seekable('putBufferAt');
    const wanted = bytes.length;
    await this.#latching('putBufferAt', offset, async () => {
      const count = await write(bytes, offset);
      if (count >= 0 && count !== wanted) {
        throw new Error(`the backend wrote ${inspect(count)} of ${wanted} bytes`);
      }
      return count;
    });
    this.#putAt += wanted;
  }

  async #getBufferAt(target: Uint8Array, offset: number): Promise<number> {
    checkAttached(target, 'getBufferAt');
    checkOffset(offset, 'getBufferAt');
    const read = this.#seekable('getBufferAt');
    const wanted = target.length;
    let copied = 0;
    while (copied < wanted) {
      const rest = target.subarray(copied);
      const from = offset + copied;
      copied += await this.#latching('getBufferAt', from, async () => {
        const count = await read(rest, from);
        if (count === 0) {
          throw new Error(`the stream ended: wanted ${wanted} bytes, ${copied} are there`);
        }
        if (count > rest.length) {
          throw new Error(
            `the backend answered ${inspect(count)} when given room for ${rest.length}`,
          );
        }
        return count;
      });
    }
    return copied;
  }

  /** An operation of seekable backends, bound to its table. */
  #seekable<K extends 'setOffset' | 'getOffset' | 'putBufferAt' | 'getBufferAt'>(
    name: K,
  ): NonNullable<QemuFileOps[K]> {
    this.checkAlive();
    const operation = this.ops[name] as NonNullable<QemuFileOps[K]> | undefined;
    if (operation === undefined) {
      throw new QemuFileError('ESPIPE', 'the backend cannot seek', { operation: name });
    }
    return operation.bind(this.ops) as NonNullable<QemuFileOps[K]>;
  }

  /** Awaits a backend's answer, a number that is no failure; a failure is latched. */
  async #latching(
    operation: string,
    position: number | undefined,
    call: () => MaybePromise<number>,
  ): Promise<number> {
    try {
      const answer = await call();
      if (Number.isSafeInteger(answer) && answer >= 0) return answer;
      throw backendError(answer, 'where an offset or a count was due', { operation, position });
    } catch (failure) {
      const error = toQemuFileError(failure, { operation, position });
      this.latch(error);
      throw error;
    }
  }
}
