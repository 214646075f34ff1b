import fs from 'node:fs';
import { checkString, checkWord } from '../../lib/contract/argument-error.ts';
import { abortError, QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { Direction } from '../../lib/contract/ops.ts';
import { type FdOps, type Finish, type MakeFdOptions, makeFdOps } from './fd.ts';
import { closeFd, openFile, syncFd, truncateFd } from './fs-promises.ts';
import type { PartialFile } from './partial/partial-file.ts';
import { findTarget } from './target-path.ts';

const { O_CREAT, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = fs.constants;

/** Permission bits of new files. Only the owner may read the memory of a guest. */
const PRIVATE_MODE = 0o600;

/**
 * Decides whether an incomplete file is kept.
 *
 * @param error - Why the file is incomplete.
 * @param partialPath - Where it is: no longer under the name that it had while it was written.
 */
export type KeepPartial = (error: Error, partialPath: string) => boolean;

/** Options of `openFd`. */
export interface OpenFdOptions<D extends Direction = Direction> {
  /** Which way bytes go. */
  direction: D;
  /**
   * Byte offset of the first byte. Default 0. With an offset, a regular file is written in place: the bytes
   * before it stay, and the rest is cut off. QEMU's `file:path,offset=N`.
   */
  offset?: number | undefined;
  /** Aborts the opening. It has no effect on an open backend. */
  signal?: AbortSignal | undefined;
  /** Permission bits of a new file, less the process's umask. Default 0o600. */
  mode?: number | undefined;
  /** Whether an existing file is replaced. Default true. It has no effect with an offset. */
  replace?: boolean | undefined;
  /**
   * Whether an incomplete file is kept under a temporary name, or a function that decides by the error.
   * Default false.
   */
  keepPartial?: boolean | KeepPartial | undefined;
  /**
   * Whether aligned runs of 4 KiB of zeros and more become holes in a new file. Default true. It has no effect on a
   * device or with an offset.
   */
  sparse?: boolean | undefined;
  /** As for `fdOps`; for reading. */
  inlineReads?: boolean | undefined;
}

/** A path that is open for writing. */
export interface PathWriteOps extends FdOps<'write'> {
  /** The file that is written in the end: an absolute path without links; for a device, the path as given. */
  readonly path: string;
  /**
   * Temporary path of the file until `close()`; after that, the path of an incomplete file that was kept.
   * `undefined` for a file that is written in place.
   */
  readonly partialPath: string | undefined;
}

/** The backend that `openFd` returns for a direction. */
export type PathOps<D extends Direction> = D extends 'read' ? FdOps<'read'> : PathWriteOps;

/**
 * Open a regular file, a block device or a character device. For a FIFO use `openFifo`; `openPath` opens either.
 *
 * A regular file is written under a temporary name in the same directory (`.name.writer.qemu-file-partial`,
 * mode 0600). `close()` makes the file durable and then renames it in one atomic step, but only if every write
 * succeeded; `close(error)` removes it. The name therefore never shows an incomplete file, and an existing file
 * stays until the new one is complete. A process that is killed leaves its temporary file. The next writer to the
 * same name removes that file, once the process that wrote it is dead, or was on another machine or in another
 * container and has not touched the file for a day.
 *
 * Runs of zeros become holes, which read as zeros and take no space; `sparse: false` writes them. A hole at the end
 * shows in the file's length only after `close()`.
 *
 * Devices, and files with an `offset`, are written in place, and `close()` makes them durable.
 * Where the path is a symbolic link, its target is created or replaced, and the link stays.
 *
 * @param path - The path to open.
 * @param options - `direction`, `offset` in bytes, `signal`, `mode`, `replace`,
 *   `keepPartial`, `sparse`, `inlineReads`.
 * @returns A backend like that of `fdOps`.
 * @throws {QemuFileError} (rejects) `EISDIR` a directory; `EEXIST` a file that must not be replaced; `ENOTSUP` a
 *   FIFO or a socket; `ESPIPE` an offset on a device that is not seekable; `EINVAL` an invalid offset or path;
 *   `ECANCELED` the signal; otherwise the system's own code (`ENOENT`, `EACCES`, `ELOOP`, `ENOSPC` …). `close()`
 *   without an error rejects with the error of the first write that failed.
 * @example
 * ```js
 * const ops = await openFd('/var/lib/vm.bin', { direction: 'write' });
 * const file = new QemuFile(ops);
 * ```
 */
export async function openFd<D extends Direction>(
  path: string,
  options: OpenFdOptions<D>,
): Promise<PathOps<D>> {
  checkString('openFd', 'path', path);
  checkWord('openFd', 'direction', ['read', 'write'], options?.direction);
  const { offset = 0, signal } = options;
  try {
    checkSignal(signal);
    if (!Number.isSafeInteger(offset) || offset < 0) {
      throw openError('EINVAL', `${offset} is not an offset`);
    }
    if (path.includes('\0')) throw openError('EINVAL', 'a path must not contain NUL');
    const ops =
      options.direction === 'read'
        ? await openToRead(path, offset, options)
        : await openToWrite(path, offset, options);
    return ops as PathOps<D>;
  } catch (error) {
    throw toQemuFileError(error, { operation: 'open' });
  }
}

async function openToRead(
  path: string,
  offset: number,
  { signal, inlineReads }: OpenFdOptions,
): Promise<FdOps<'read'>> {
  checkKind(path, await fs.promises.stat(path));
  checkSignal(signal);
  // Without O_NONBLOCK, a terminal without carrier, or a FIFO that has replaced the file, would block a thread.
  const fd = await openFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
  return closeOnError(fd, () => {
    checkSignal(signal);
    return makeFdOps(fd, { direction: 'read', offset, inlineReads });
  });
}

async function openToWrite(
  path: string,
  offset: number,
  options: OpenFdOptions,
): Promise<PathWriteOps> {
  const { signal, mode = PRIVATE_MODE } = options;
  const target = await findTarget(path);
  checkSignal(signal);
  if (target.stats !== undefined) checkKind(path, target.stats);
  const isDevice = target.stats !== undefined && !target.stats.isFile();
  if (isDevice || offset > 0) return openInPlace(target.path, isDevice, offset, mode, signal);
  // Loaded here, because a program that only reads files starts faster without it.
  const { existsError, PartialFile } = await import('./partial/partial-file.ts');
  if (target.stats !== undefined && options.replace === false) throw existsError(target.path);
  const file = await PartialFile.create(target.path, mode, options.replace ?? true);
  return openPartial(file, target.path, options);
}

async function openInPlace(
  path: string,
  isDevice: boolean,
  offset: number,
  mode: number,
  signal: AbortSignal | undefined,
): Promise<PathWriteOps> {
  const kindFlags = isDevice ? O_NOCTTY : O_CREAT | O_NOFOLLOW;
  const fd = await openFile(path, O_WRONLY | O_NONBLOCK | kindFlags, mode);
  return closeOnError(fd, async () => {
    checkSignal(signal);
    const stats = fs.fstatSync(fd);
    if (stats.isFile()) await truncateFd(fd, offset);
    const canSync = stats.isFile() || stats.isBlockDevice();
    const finish: Finish = async (error, writeError) => {
      if (error !== undefined) return;
      if (writeError !== undefined) throw writeError;
      if (canSync) await inClose(() => syncFd(fd));
    };
    return pathWriteOps(fd, { offset }, finish, path, () => undefined);
  });
}

function openPartial(
  file: PartialFile,
  path: string,
  options: OpenFdOptions,
): Promise<PathWriteOps> {
  const { keepPartial = false } = options;
  const discard = async (error: Error): Promise<void> => {
    if (keepPartial !== false) {
      const keptPath = await file.keep();
      if (keepPartial === true || keepPartial(error, keptPath)) return;
    }
    await inClose(() => file.discard());
  };
  const finish: Finish = async (error, writeError) => {
    const reason = error ?? writeError;
    if (reason !== undefined) {
      await discard(reason);
      if (error === undefined) throw reason;
      return;
    }
    try {
      await inClose(() => file.publish());
    } catch (publishError) {
      await discard(publishError as Error);
      throw publishError;
    }
  };
  return closeOnError(file.fd, async () => {
    try {
      checkSignal(options.signal);
      const { sparse = true } = options;
      return pathWriteOps(file.fd, { sparse }, finish, path, () => file.path);
    } catch (error) {
      await file.discard();
      throw error;
    }
  });
}

function pathWriteOps(
  fd: number,
  options: Pick<MakeFdOptions<'write'>, 'offset' | 'sparse'>,
  finish: Finish,
  path: string,
  partialPath: () => string | undefined,
): PathWriteOps {
  return {
    ...makeFdOps(fd, { ...options, direction: 'write' }, finish),
    path,
    get partialPath() {
      return partialPath();
    },
  };
}

function checkKind(path: string, stats: fs.Stats): void {
  if (stats.isDirectory()) throw openError('EISDIR', `${path} is a directory`);
  if (stats.isFIFO()) throw openError('ENOTSUP', `${path} is a FIFO: open it with openFifo`);
  if (stats.isSocket()) throw openError('ENOTSUP', `${path} is a socket: use unix:${path}`);
}

function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal, 'open');
}

async function closeOnError<T>(fd: number, use: () => T | Promise<T>): Promise<T> {
  try {
    return await use();
  } catch (error) {
    await closeFd(fd);
    throw error;
  }
}

async function inClose(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    throw toQemuFileError(error, { operation: 'close' });
  }
}

function openError(code: string, reason: string): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'open' });
}
