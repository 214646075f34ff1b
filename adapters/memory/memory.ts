import { constants } from 'node:buffer';
import { argumentError } from '../../lib/contract/argument-error.ts';
import { QemuFileError } from '../../lib/contract/errors.ts';
import type { QemuFileOps, Whence } from '../../lib/contract/ops.ts';
import { totalLength } from '../../lib/util/total-length.ts';
import { GrowingBuffer } from './growing-buffer.ts';

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
  if (initial !== undefined && !(initial instanceof Uint8Array)) {
    throw argumentError('memoryOps', 'initial', 'a Uint8Array or Buffer', initial);
  }
  const buffer = new GrowingBuffer(initial, limit);
  let readOffset = 0;
  let writeOffset = buffer.length;
  let lastUsed: 'read' | 'write' = 'read';
  let isClosed = false;

  function checkOpen(operation: string): void {
    if (isClosed) throw new QemuFileError('EBADF', 'the file is closed', { operation });
  }

  return {
    getBuffer(target) {
      checkOpen('getBuffer');
      lastUsed = 'read';
      const count = buffer.read(target, readOffset);
      readOffset += count;
      return count;
    },

    writevBuffer(sources, position) {
      checkOpen('writevBuffer');
      lastUsed = 'write';
      const total = totalLength(sources);
      if (total === 0) return 0;
      buffer.reserve(writeOffset + total, { operation: 'writevBuffer', position });
      for (const source of sources) {
        buffer.write(source, writeOffset);
        writeOffset += source.length;
      }
      return total;
    },

    close() {
      isClosed = true;
    },

    setOffset(offset, whence) {
      checkOpen('setOffset');
      const current = lastUsed === 'read' ? readOffset : writeOffset;
      const base = whence === 'set' ? 0 : whence === 'end' ? buffer.length : current;
      const target = checkOffset(base + offset, 'setOffset');
      readOffset = target;
      writeOffset = target;
      return target;
    },

    getOffset() {
      checkOpen('getOffset');
      return lastUsed === 'read' ? readOffset : writeOffset;
    },

    putBufferAt(source, offset) {
      checkOpen('putBufferAt');
      checkOffset(offset, 'putBufferAt');
      if (source.length === 0) return 0;
      buffer.reserve(offset + source.length, { operation: 'putBufferAt', position: offset });
      buffer.write(source, offset);
      return source.length;
    },

    getBufferAt(target, offset) {
      checkOpen('getBufferAt');
      checkOffset(offset, 'getBufferAt');
      return buffer.read(target, offset);
    },

    contents: () => buffer.contents(),
  };
}

function checkOffset(offset: number, operation: string): number {
  if (Number.isSafeInteger(offset) && offset >= 0) return offset;
  throw new QemuFileError('EINVAL', `${offset} is not an offset`, { operation });
}
