import { constants } from 'node:buffer';
import { QemuFileError } from '../../lib/contract/errors.ts';
import type { QemuFileOps, Whence } from '../../lib/contract/ops.ts';
import { type ConnectionOps, shareTransport, type Transport } from '../shared/shared-transport.ts';
import { ByteRing } from './byte-ring.ts';

/** How `memoryOps` behaves. */
export interface MemoryOptions {
  /** Greatest number of bytes held; a write that needs more fails with `ENOSPC`. Default: what a `Buffer` can hold. */
  limit?: number | undefined;
}

/** A growing buffer as a backend; every operation answers at once. */
export interface MemoryOps extends QemuFileOps {
  getBuffer(buffer: Uint8Array, position: number): number;
  writevBuffer(buffers: readonly Uint8Array[], position: number): number;
  close(error?: Error): void;
  setOffset(offset: number, whence: Whence): number;
  getOffset(): number;
  putBufferAt(buffer: Uint8Array, offset: number): number;
  getBufferAt(buffer: Uint8Array, offset: number): number;
  /**
   * Gives all bytes held: a view that stays valid, though a later write may or may not show in it.
   * Works after `close()` too.
   */
  contents(): Uint8Array;
}

/** Bytes made room for by the first write. */
const FIRST_SIZE = 4096;

/**
 * Makes a backend over a growing buffer: what is written is copied to its end, and what is read comes
 * from its start, each with an offset of its own. It is seekable: `setOffset` moves both offsets, and
 * `getOffset` gives that of the direction used last. A gap left by seeking reads as zeros.
 *
 * Its operations throw a `QemuFileError`: `ENOSPC` for a write beyond `limit` (nothing of the batch is
 * kept), `EINVAL` for a bad offset, `EBADF` after `close()`.
 *
 * @param initial - Bytes to start with; copied.
 * @param options - `limit`, in bytes.
 *
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

  function makeRoom(end: number, operation: string, position: number): void {
    if (end > limit) {
      throw new QemuFileError('ENOSPC', `the memory is limited to ${limit} bytes`, {
        operation,
        position,
      });
    }
    if (end > bytes.length) {
      const grown = Buffer.alloc(Math.min(limit, Math.max(end, 2 * bytes.length, FIRST_SIZE)));
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
      let total = 0;
      for (const buffer of buffers) total += buffer.length;
      if (total === 0) return 0;
      makeRoom(writeOffset + total, 'writevBuffer', position);
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
      makeRoom(offset + buffer.length, 'putBufferAt', offset);
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
  throw new QemuFileError('EINVAL', `not an offset: ${offset}`, { operation });
}

/** How `memoryPair` behaves. */
export interface MemoryPairOptions {
  /** Bytes that each direction stores, an integer of 1 or more. Default 65536, as a pipe of Linux. */
  highWaterMark?: number | undefined;
}

/**
 * Makes the two ends of a connection inside the process. Each end reads what the other writes; a write
 * that does not fit is answered when the other end has read enough, so nobody can make the process grow.
 *
 * - `close()` of one end is the end for the other's reader and `EPIPE` for its writer.
 * - `close(error)`, or a close in the middle of a write, is `ECONNRESET` for both, after the bytes that
 *   were stored before.
 * - `shutDown(false, true)` ends writing; `shutDown(true, …)` makes reads fail with `ECANCELED`, and the
 *   other end's writes with `EPIPE`.
 * - `getReturnPath()` gives a further table over the same end, which closes when all its tables were
 *   closed. A direction belongs to the first table that uses it: another gets `EBUSY`.
 * - There is no descriptor, and `setBlocking` does nothing.
 *
 * @param options - `highWaterMark`, in bytes.
 */
export function memoryPair(options: MemoryPairOptions = {}): [ConnectionOps, ConnectionOps] {
  const { highWaterMark = 65536 } = options;
  if (!Number.isSafeInteger(highWaterMark) || highWaterMark < 1) {
    throw new RangeError(`highWaterMark must be an integer of 1 or more: ${highWaterMark}`);
  }
  const there = new ByteRing(highWaterMark);
  const back = new ByteRing(highWaterMark);
  return [shareTransport(endOf(back, there)), shareTransport(endOf(there, back))];
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
