import { constants } from 'node:buffer';
import { QemuFileError } from '../../lib/contract/errors.ts';
import type { QemuFileOps, Whence } from '../../lib/contract/ops.ts';
import { totalLength } from '../../lib/util/total-length.ts';
import { type ConnectionOps, shareTransport, type Transport } from '../shared/shared-transport.ts';
import { ByteRing } from './byte-ring.ts';

/** Options of `memoryOps`. */
export interface MemoryOptions {
  /** Greatest size in bytes; a write that needs more fails with `ENOSPC`. Default: the greatest size of a `Buffer`. */
  limit?: number | undefined;
}

/** A growing buffer as a backend. Every operation is synchronous. */
export interface MemoryOps extends QemuFileOps {
  getBuffer(buffer: Uint8Array, position: number): number;
  writevBuffer(buffers: readonly Uint8Array[], position: number): number;
  close(error?: Error): void;
  setOffset(offset: number, whence: Whence): number;
  getOffset(): number;
  putBufferAt(buffer: Uint8Array, offset: number): number;
  getBufferAt(buffer: Uint8Array, offset: number): number;
  /**
   * Return a view of all bytes. It stays valid, but a later write may or may not show in it. The call also works
   * after `close()`.
   */
  contents(): Uint8Array;
}

/** Size of the first allocation, in bytes. */
const MIN_ALLOCATION_BYTES = 4096;

/** Default of `MemoryPairOptions.highWaterMark`: the size of a pipe in Linux. */
const PIPE_BYTES = 65_536;

/**
 * Make a backend over a growing buffer. Writes start at its end, reads at its start, each at an offset of its
 * own. The backend is seekable: `setOffset` moves both offsets, and `getOffset` returns that of the direction
 * used last. A gap that seeking leaves reads as zeros.
 *
 * @param initial - The first content, which is copied.
 * @param options - `limit` in bytes.
 * @throws {RangeError} `limit` is negative or not a number. The operations throw a `QemuFileError`: `ENOSPC` for
 *   a write beyond `limit` (no byte of the batch is stored), `EINVAL` for an invalid offset, `EBADF` after
 *   `close()`.
 * @example
 * ```js
 * const memory = memoryOps();
 * const file = new QemuFile(memory);
 * file.putBe32(0x5145564d);
 * await file.close();
 * console.log(memory.contents()); // <Buffer 51 45 56 4d>
 * ```
 */
export function memoryOps(initial?: Uint8Array, options: MemoryOptions = {}): MemoryOps {
  const limit = Math.min(options.limit ?? constants.MAX_LENGTH, constants.MAX_LENGTH);
  if (Number.isNaN(limit) || limit < 0) throw new RangeError(`limit must be 0 or more: ${limit}`);
  let bytes = Buffer.from(initial ?? []);
  let length = bytes.length;
  let readOffset = 0;
  let writeOffset = length;
  let lastUsed: 'read' | 'write' = 'read';
  let isClosed = false;

  function checkOpen(operation: string): void {
    if (isClosed) throw new QemuFileError('EBADF', 'the file is closed', { operation });
  }

  function reserve(end: number, operation: string, position: number): void {
    if (end > limit) {
      throw new QemuFileError('ENOSPC', `the memory is limited to ${limit} bytes`, {
        operation,
        position,
      });
    }
    if (end > bytes.length) {
      const grown = Buffer.alloc(
        Math.min(limit, Math.max(end, 2 * bytes.length, MIN_ALLOCATION_BYTES)),
      );
      grown.set(bytes.subarray(0, length));
      bytes = grown;
    }
    length = Math.max(length, end);
  }

  return {
    getBuffer(buffer) {
      checkOpen('getBuffer');
      lastUsed = 'read';
      const taken = bytes.subarray(readOffset, Math.min(length, readOffset + buffer.length));
      buffer.set(taken);
      readOffset += taken.length;
      return taken.length;
    },

    writevBuffer(buffers, position) {
      checkOpen('writevBuffer');
      lastUsed = 'write';
      const total = totalLength(buffers);
      if (total === 0) return 0;
      reserve(writeOffset + total, 'writevBuffer', position);
      for (const buffer of buffers) {
        bytes.set(buffer, writeOffset);
        writeOffset += buffer.length;
      }
      return total;
    },

    close() {
      isClosed = true;
    },

    setOffset(offset, whence) {
      checkOpen('setOffset');
      const current = lastUsed === 'read' ? readOffset : writeOffset;
      const base = whence === 'set' ? 0 : whence === 'end' ? length : current;
      const target = checkOffset(base + offset, 'setOffset');
      readOffset = target;
      writeOffset = target;
      return target;
    },

    getOffset() {
      checkOpen('getOffset');
      return lastUsed === 'read' ? readOffset : writeOffset;
    },

    putBufferAt(buffer, offset) {
      checkOpen('putBufferAt');
      checkOffset(offset, 'putBufferAt');
      if (buffer.length === 0) return 0;
      reserve(offset + buffer.length, 'putBufferAt', offset);
      bytes.set(buffer, offset);
      return buffer.length;
    },

    getBufferAt(buffer, offset) {
      checkOpen('getBufferAt');
      checkOffset(offset, 'getBufferAt');
      const found = bytes.subarray(offset, Math.min(length, offset + buffer.length));
      buffer.set(found);
      return found.length;
    },

    contents: () => bytes.subarray(0, length),
  };
}

function checkOffset(offset: number, operation: string): number {
  if (Number.isSafeInteger(offset) && offset >= 0) return offset;
  throw new QemuFileError('EINVAL', `${offset} is not an offset`, { operation });
}

/** Options of `memoryPair`. */
export interface MemoryPairOptions {
  /** Bytes that each direction stores, an integer of 1 or more. Default 65536, as in a pipe of Linux. */
  highWaterMark?: number | undefined;
}

/**
 * Make the two ends of a connection within the process. Each end reads the bytes that the other writes. A write
 * that does not fit resolves when the peer has read enough, so a fast writer cannot increase the memory of the
 * process.
 *
 * - After `close()` of one end, the peer's reads report the end, and its writes fail with `EPIPE`.
 * - After `close(error)`, or a `close()` while a write is pending, both fail with `ECONNRESET`, reads after the
 *   bytes that are stored.
 * - `shutDown(false, true)` ends writing. After `shutDown(true, …)` reads fail with `ECANCELED`, and the peer's
 *   writes with `EPIPE`.
 * - `getReturnPath()` returns a further backend over the same end, which closes when all its backends are closed.
 *   A direction belongs to the first backend that uses it; in any other it fails with `EBUSY`.
 * - There is no descriptor, and `setBlocking` has no effect.
 *
 * @param options - `highWaterMark` in bytes.
 * @returns The two ends.
 * @throws {RangeError} `highWaterMark` is not an integer of 1 or more.
 */
export function memoryPair(options: MemoryPairOptions = {}): [ConnectionOps, ConnectionOps] {
  const { highWaterMark = PIPE_BYTES } = options;
  if (!Number.isSafeInteger(highWaterMark) || highWaterMark < 1) {
    throw new RangeError(`highWaterMark must be an integer of 1 or more: ${highWaterMark}`);
  }
  const forward = new ByteRing(highWaterMark);
  const backward = new ByteRing(highWaterMark);
  return [shareTransport(endOf(backward, forward)), shareTransport(endOf(forward, backward))];
}

function endOf(incoming: ByteRing, outgoing: ByteRing): Transport {
  return {
    getBuffer: (buffer) => incoming.read(buffer),
    writevBuffer: (buffers) => outgoing.write(buffers),
    cancelRead: (error) => incoming.cancelRead(error),
    shutDown(read, write) {
      if (read) incoming.closeReader();
      if (write) outgoing.closeWriter();
    },
    close(error) {
      const code = error === undefined ? undefined : 'ECONNRESET';
      outgoing.closeWriter(code);
      incoming.closeReader(code);
    },
    getFd: () => -1,
  };
}
