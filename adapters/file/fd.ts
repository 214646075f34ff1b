import fs from 'node:fs';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { Direction, MaybePromise, QemuFileOps, Whence } from '../../lib/contract/ops.ts';
import { FILE_SIZES } from '../shared/sizes.ts';
import { FdTransport } from './fd-transport.ts';

export type { Direction };

/** How a descriptor is used. */
export interface FdOptions {
  /** The one direction wanted. Absent: both. */
  direction?: Direction | undefined;
  /**
   * Byte offset of the first byte in the file or block device, default 0. `'current'` uses the
   * descriptor's own offset and moves it, as is right for one that was inherited; then there is no
   * seeking. Descriptors that cannot seek always do that.
   */
  offset?: number | 'current' | undefined;
  /** Whether `close()` closes the descriptor. Default true. */
  autoClose?: boolean | undefined;
}

/** What every table over a descriptor has. */
export interface FdOps extends QemuFileOps {
  close(error?: Error): Promise<void>;
  /** `true`: the read and write operations work on the calling thread and answer at once. */
  setBlocking(blocking: boolean): void;
  shutDown(read: boolean, write: boolean): void;
  getFd(): number;
}

/** A descriptor for reading. */
export interface FdReadOps extends FdOps {
  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array>;
  writevBuffer?: never;
}

/** A descriptor for writing. */
export interface FdWriteOps extends FdOps {
  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number>;
  getBuffer?: never;
}

/** A descriptor for both. */
export interface FdBothOps extends FdOps {
  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array>;
  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number>;
}

/**
 * Makes a backend of an open descriptor of a regular file, a block device or a character device. The
 * descriptor is the backend's from then on, and `close()` closes it. For pipes, sockets and terminals
 * use `pipeOps`: here each would keep a thread of the pool busy for as long as it waits.
 *
 * Writes are whole in spite of short ones. Files and block devices are read and written at offsets
 * that the backend keeps, one for each direction, and have `setOffset` (which moves both),
 * `getOffset` (the writing one where there is one), `getBufferAt` and `putBufferAt`; others lack
 * these. `close()` and `shutDown()` end whatever waits; what a thread works on is finished first,
 * except where it may never finish. `shutDown()` fails later operations with `ECANCELED`, `close()`
 * with `EBADF`.
 *
 * @param fd - The descriptor.
 * @param options - Direction, offset, ownership.
 * @throws {QemuFileError} `EBADF` no such descriptor; `EISDIR` a directory; `ESPIPE` an offset for what
 *   cannot seek; `EINVAL` not an offset. Operations fail with the system's own code (`ENOSPC`, `EIO` …)
 *   and with `EIO` when writes go on taking nothing.
 * @example
 * ```js
 * const ops = fdOps(fs.openSync('/dev/vdb', 'r'), { direction: 'read', offset: 1 << 20 });
 * const file = new QemuFile(ops);
 * ```
 */
export function fdOps(fd: number, options: FdOptions & { direction: 'read' }): FdReadOps;
export function fdOps(fd: number, options: FdOptions & { direction: 'write' }): FdWriteOps;
export function fdOps(fd: number, options?: FdOptions & { direction?: undefined }): FdBothOps;
export function fdOps(fd: number, options?: FdOptions): FdOps;
export function fdOps(fd: number, options: FdOptions = {}): FdOps {
  return fdTable(fd, options);
}

/** What a table does at its end, before the descriptor is closed. */
export type Finish = (error: Error | undefined, failed: Error | undefined) => Promise<void>;

/**
 * Like `fdOps`, for openers that have something to do at the end.
 *
 * @param fd - The descriptor.
 * @param options - As for `fdOps`.
 * @param finish - Gets what `close()` was given, and the error of the first write that failed.
 */
export function fdTable(fd: number, options: FdOptions, finish?: Finish): FdOps {
  const reads = options.direction !== 'write';
  const writes = options.direction !== 'read';
  const stats = statOf(fd);
  const offset = startOf(options.offset, stats.isFile() || stats.isBlockDevice());
  const transport = new FdTransport(
    fd,
    { reads, writes, offset, owned: options.autoClose ?? true },
    stats.isFile() ? () => statOf(fd).size : undefined,
  );
  return {
    ...(reads && {
      getBuffer: (buffer: Uint8Array, position: number) => transport.read(buffer, position),
    }),
    ...(writes && {
      writevBuffer: (buffers: readonly Uint8Array[], position: number) =>
        transport.writev(buffers, position),
    }),
    ...(offset !== null && {
      setOffset: (target: number, whence: Whence) => transport.setOffset(target, whence),
      getOffset: () => transport.getOffset(),
      ...(reads && {
        getBufferAt: (buffer: Uint8Array, at: number) => transport.readAt(buffer, at),
      }),
      ...(writes && {
        putBufferAt: (buffer: Uint8Array, at: number) => transport.writeAt(buffer, at),
      }),
    }),
    close: (error) => transport.close(finish && ((failed) => finish(error, failed))),
    setBlocking: (blocking) => transport.setBlocking(blocking),
    shutDown: (read, write) => transport.shutDown(read, write),
    getFd: () => transport.getFd(),
    sizes: FILE_SIZES,
  };
}

function statOf(fd: number): fs.Stats {
  let stats: fs.Stats;
  try {
    stats = fs.fstatSync(fd);
  } catch (error) {
    throw toQemuFileError(error, { operation: 'fdOps' });
  }
  if (!stats.isDirectory()) return stats;
  throw new QemuFileError('EISDIR', 'the descriptor is of a directory', { operation: 'fdOps' });
}

function startOf(offset: number | 'current' | undefined, canSeek: boolean): number | null {
  if (offset === 'current') return null;
  const start = offset ?? 0;
  if (!Number.isSafeInteger(start) || start < 0) {
    throw new QemuFileError('EINVAL', `${start} is not an offset`, { operation: 'fdOps' });
  }
  if (canSeek) return start;
  if (start === 0) return null;
  throw new QemuFileError('ESPIPE', 'what the descriptor is of has no offsets', {
    operation: 'fdOps',
  });
}
