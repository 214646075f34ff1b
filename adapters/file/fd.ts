import { QemuFileError } from '../../lib/contract/errors.ts';
import type { Direction, OpsOf, Whence } from '../../lib/contract/ops.ts';
import { descriptorStats } from '../shared/descriptor-stats.ts';
import { FILE_SIZES } from '../shared/sizes.ts';
import { descriptorSize } from './descriptor-size.ts';
import { FdTransport } from './fd-transport.ts';

export type { Direction };

/** Options of `fdOps`. */
export interface FdOptions<D extends Direction | 'both' = Direction | 'both'> {
  /** The direction that is used. Default: both. */
  direction?: D | undefined;
  /**
   * Byte offset of the first byte in the file or block device. Default 0. `'current'` uses and moves the
   * descriptor's own offset, which is right for an inherited descriptor; seeking is then not possible.
   * A descriptor that is not seekable always uses its own offset.
   */
  offset?: number | 'current' | undefined;
  /** Whether `close()` closes the descriptor. Default true. */
  autoClose?: boolean | undefined;
  /**
   * Whether reads of a file may run on the calling thread: nearly all of them do, as long as they return at once, as
   * they do from the page cache. It is faster, but the event loop gets a turn after every 10 ms of reading only.
   * Default false.
   */
  inlineReads?: boolean | undefined;
}

/** A backend over a descriptor. */
export type FdOps<D extends Direction | 'both' = Direction | 'both'> = OpsOf<D> & {
  /** With `true`, reads and writes run on the calling thread and return synchronously. */
  setBlocking(blocking: boolean): void;
};

/**
 * Make a backend of an open descriptor of a regular file, a block device or a character device. The backend
 * owns the descriptor from then on, and `close()` closes it. For pipes, sockets and terminals use `pipeOps`:
 * this backend would block a thread of the pool for as long as each read or write waits.
 *
 * Writes are complete in spite of short ones. Files and block devices are read and written at offsets that the
 * backend keeps, one for each direction. They have `setOffset` (which moves both), `getOffset` (of the writing
 * direction where there is one), `getBufferAt` and `putBufferAt`; other descriptors do not. `close()` and
 * `shutDown()` end waiting operations. They let a call that is running in a thread finish first, except where
 * it may never return. After `shutDown()` operations fail with `ECANCELED`, after `close()` with `EBADF`.
 *
 * @param fd - The descriptor.
 * @param options - `direction`, `offset` in bytes, `autoClose`, `inlineReads`.
 * @throws {QemuFileError} `EBADF` the descriptor is not open; `EISDIR` it is a directory; `ESPIPE` an offset
 *   for a descriptor that is not seekable; `EINVAL` an invalid offset. Operations fail with the system's own
 *   code (`ENOSPC`, `EIO` …), and with `EIO` when the descriptor keeps accepting no bytes.
 * @example
 * ```js
 * const ops = fdOps(openSync('/dev/vdb', 'r'), { direction: 'read', offset: 1 << 20 });
 * const file = new QemuFile(ops);
 * ```
 */
export function fdOps<D extends Direction | 'both' = 'both'>(
  fd: number,
  options: FdOptions<D> = {},
): FdOps<D> {
  return makeFdOps(fd, options);
}

/**
 * Called by `close()` before the descriptor is closed.
 *
 * @param error - The argument of `close()`.
 * @param writeError - The error of the first write that failed.
 */
export type Finish = (error: Error | undefined, writeError: Error | undefined) => Promise<void>;

/** Options of `makeFdOps`. */
export interface MakeFdOptions<D extends Direction | 'both'> extends FdOptions<D> {
  /** For a new and empty file: makes holes of runs of zeros. Default false. */
  sparse?: boolean | undefined;
}

/**
 * Like `fdOps`, for openers that know more about the file, or have to do something when the backend is closed.
 *
 * @param fd - The descriptor.
 * @param options - As for `fdOps`, and `sparse`.
 * @param finish - Called when the backend is closed.
 */
export function makeFdOps<D extends Direction | 'both'>(
  fd: number,
  options: MakeFdOptions<D>,
  finish?: Finish,
): FdOps<D> {
  const canRead = options.direction !== 'write';
  const canWrite = options.direction !== 'read';
  const stats = descriptorStats(fd, 'fdOps');
  if (stats.isDirectory()) throw fdError('EISDIR', 'the descriptor is a directory');
  const offset = startOffset(options.offset, stats.isFile() || stats.isBlockDevice());
  const transport = new FdTransport(
    fd,
    {
      canRead,
      canWrite,
      offset,
      isOwned: options.autoClose ?? true,
      isSparse: options.sparse === true && stats.isFile(),
      canReadInline: options.inlineReads === true && stats.isFile(),
    },
    () => descriptorSize(fd),
  );
  const ops = {
    ...(canRead && {
      getBuffer: (buffer: Uint8Array, position: number) => transport.read(buffer, position),
    }),
    ...(canWrite && {
      writevBuffer: (buffers: readonly Uint8Array[], position: number) =>
        transport.writev(buffers, position),
    }),
    ...(offset !== null && {
      setOffset: (target: number, whence: Whence) => transport.setOffset(target, whence),
      getOffset: () => transport.getOffset(),
      ...(canRead && {
        getBufferAt: (buffer: Uint8Array, at: number) => transport.readAt(buffer, at),
      }),
      ...(canWrite && {
        putBufferAt: (buffer: Uint8Array, at: number) => transport.writeAt(buffer, at),
      }),
    }),
    close: (error?: Error) =>
      transport.close(finish && ((writeError) => finish(error, writeError))),
    setBlocking: (blocking: boolean) => transport.setBlocking(blocking),
    shutDown: (read: boolean, write: boolean) => transport.shutDown(read, write),
    getFd: () => transport.getFd(),
    sizes: FILE_SIZES,
  };
  return ops as unknown as FdOps<D>;
}

function startOffset(offset: number | 'current' | undefined, canSeek: boolean): number | null {
  if (offset === 'current') return null;
  const start = offset ?? 0;
  if (!Number.isSafeInteger(start) || start < 0) {
    throw fdError('EINVAL', `${start} is not an offset`);
  }
  if (canSeek) return start;
  if (start === 0) return null;
  throw fdError('ESPIPE', 'the descriptor is not seekable; remove the offset');
}

function fdError(code: string, reason: string): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'fdOps' });
}
