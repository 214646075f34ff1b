import { inspect } from 'node:util';
import { backendError } from '../contract/backend-result.ts';
import { QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { MaybePromise, QemuFileOps, Whence } from '../contract/ops.ts';
import { checkAttached } from './check-attached.ts';
import type { GetHalf } from './get/get-half.ts';
import type { WaitOptions } from './options.ts';

/** Positions in the stream of a `QemuFile`, and offsets of backends that can seek. */
export interface Positions {
  /**
   * Flush, then return the position. @see QEMU `qemu_ftell`
   *
   * @param options - `signal` ends the wait.
   * @returns As `tellFast`, with nothing left unflushed.
   * @throws {QemuFileError} (rejects) as `flush`.
   */
  tell(options?: WaitOptions): Promise<number>;

  /**
   * Return the position, without any effect. @see QEMU `qemu_ftell_fast`
   *
   * @returns On a file that can be written, the offset after the last byte put; else the number of bytes
   *   fetched from the backend, look-ahead included.
   */
  tellFast(): number;

  /** Offset in the stream of the next byte to get: the number of bytes consumed so far. */
  readonly getPosition: number;

  /** Offset in the stream after the last byte put. */
  readonly putPosition: number;

  /** Offset in the stream after the last byte that the backend took. */
  readonly sentPosition: number;

  /**
   * Move the put position, for bytes that travelled outside of the file. @see QEMU `qemu_update_position`
   *
   * @param bytes - How many, not negative; else RangeError.
   */
  updatePosition(bytes: number): void;

  /**
   * Return the bytes sent and queued, those of `putBufferAt` included, as later QEMU counts them.
   * @see QEMU `qemu_file_transferred`
   */
  transferred(): number;

  /**
   * Move the transport's offset: flush the bytes put, drop the look-ahead, then seek.
   * @see QEMU `qemu_set_offset`
   *
   * @param offset - In bytes; negative only from `'current'` and `'end'`, else RangeError.
   * @param whence - Default `'set'`, from the start.
   * @returns The new offset from the start.
   * @throws {QemuFileError} (rejects) `ESPIPE` if the backend cannot seek; its failure, latched.
   */
  setOffset(offset: number, whence?: Whence): Promise<number>;

  /**
   * Flush, then return the transport's own offset. On a reader it lies after the look-ahead.
   * @see QEMU `qemu_get_offset`
   *
   * @throws {QemuFileError} (rejects) `ESPIPE` if the backend cannot seek; its failure, latched.
   */
  getOffset(): Promise<number>;

  /**
   * Flush, then write bytes at an offset without moving the stream. @see QEMU `qemu_put_buffer_at`
   *
   * @param bytes - The caller must not change them until the promise settles.
   * @param offset - In bytes from the start of the transport.
   * @throws {QemuFileError} (rejects) `ESPIPE` if the backend cannot seek; its failure, and `EIO` for a
   *   short write, latched. TypeError if the buffer is detached, RangeError for a negative offset.
   */
  putBufferAt(bytes: Uint8Array, offset: number): Promise<void>;

  /**
   * Read bytes from an offset, past the look-ahead, without moving the stream. @see QEMU `qemu_get_buffer_at`
   *
   * @param target - A buffer to fill completely.
   * @param offset - In bytes from the start of the transport.
   * @returns The number of bytes read: the target's length.
   * @throws {QemuFileError} (rejects) `ESPIPE` if the backend cannot seek; its failure, and `EIO` at the
   *   end, latched. TypeError if the buffer is detached, RangeError for a negative offset.
   */
  getBufferAt(target: Uint8Array, offset: number): Promise<number>;
}

/** The file that seeks. */
export interface SeekHost {
  flush(): Promise<void>;
  latch(error: QemuFileError): void;
  /** Throw the error of a latched or closed file. */
  checkAlive(): void;
}

type SeekOperation = 'setOffset' | 'getOffset' | 'putBufferAt' | 'getBufferAt';

function checkOffset(offset: number, operation: SeekOperation): void {
  if (!(Number.isSafeInteger(offset) && offset >= 0)) {
    throw new RangeError(`${operation}: ${offset} is not an offset in bytes`);
  }
}

/** The operations of a file on a backend that can seek; see `Positions`. */
export class Seeking {
  readonly #ops: QemuFileOps;
  readonly #getHalf: GetHalf;
  readonly #host: SeekHost;
  #bytesPutAt = 0;

  constructor(ops: QemuFileOps, getHalf: GetHalf, host: SeekHost) {
    this.#ops = ops;
    this.#getHalf = getHalf;
    this.#host = host;
  }

  /** Bytes of all `putBufferAt`. */
  get bytesPutAt(): number {
    return this.#bytesPutAt;
  }

  async setOffset(offset: number, whence: Whence): Promise<number> {
    if (whence === 'set' || !Number.isSafeInteger(offset)) checkOffset(offset, 'setOffset');
    await this.#host.flush();
    const seek = this.#bound('setOffset');
    let reached = -1;
    // The answer to a read in flight must not be taken for bytes from the new offset.
    await this.#getHalf.beginSeek();
    try {
      reached = await this.#call('setOffset', offset, () => seek(offset, whence));
    } finally {
      this.#getHalf.endSeek(reached >= 0);
    }
    return reached;
  }

  async getOffset(): Promise<number> {
    await this.#host.flush();
    const offset = this.#bound('getOffset');
    return this.#call('getOffset', undefined, () => offset());
  }

  async putBufferAt(bytes: Uint8Array, offset: number): Promise<void> {
    checkAttached(bytes, 'putBufferAt');
    checkOffset(offset, 'putBufferAt');
    await this.#host.flush();
    const write = this.#bound('putBufferAt');
    const wanted = bytes.length;
    await this.#call('putBufferAt', offset, async () => {
      const count = await write(bytes, offset);
      if (count >= 0 && count !== wanted) {
        throw new Error(`the backend wrote ${inspect(count)} of ${wanted} bytes`);
      }
      return count;
    });
    this.#bytesPutAt += wanted;
  }

  async getBufferAt(target: Uint8Array, offset: number): Promise<number> {
    checkAttached(target, 'getBufferAt');
    checkOffset(offset, 'getBufferAt');
    const read = this.#bound('getBufferAt');
    const wanted = target.length;
    let copied = 0;
    while (copied < wanted) {
      const rest = target.subarray(copied);
      const from = offset + copied;
      copied += await this.#call('getBufferAt', from, async () => {
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

  /** Return an operation of a seekable backend, bound to its table. */
  #bound<K extends SeekOperation>(name: K): NonNullable<QemuFileOps[K]> {
    this.#host.checkAlive();
    const operation = this.#ops[name] as NonNullable<QemuFileOps[K]> | undefined;
    if (operation === undefined) {
      throw new QemuFileError('ESPIPE', 'the backend cannot seek', { operation: name });
    }
    return operation.bind(this.#ops) as NonNullable<QemuFileOps[K]>;
  }

  /** Return the backend's answer, an offset or a count; latch and throw a failure. */
  async #call(
    operation: SeekOperation,
    position: number | undefined,
    call: () => MaybePromise<number>,
  ): Promise<number> {
    try {
      const answer = await call();
      if (Number.isSafeInteger(answer) && answer >= 0) return answer;
      throw backendError(answer, 'where an offset or a count was due', { operation, position });
    } catch (failure) {
      const error = toQemuFileError(failure, { operation, position });
      this.#host.latch(error);
      throw error;
    }
  }
}
