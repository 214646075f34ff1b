import fs from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { abortError, QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { type Direction, type FdReadOps, type FdWriteOps, type Finish, fdTable } from './fd.ts';
import { closeFd, openFile, syncFd, truncateFd } from './fs-promises.ts';
import { PartialFile, takenError } from './partial-file.ts';

const { O_CREAT, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = fs.constants;

/** Symbolic links followed at most, as in the kernel. */
const MAX_LINKS = 40;

/** Permission bits of new files: a guest's memory is its owner's business only. */
const PRIVATE = 0o600;

/**
 * Decides whether a file that did not get whole is kept.
 *
 * @param error - Why it did not.
 * @param partialPath - Where it is: no longer under the name that it was written under.
 */
export type KeepPartial = (error: Error, partialPath: string) => boolean;

/** How a path is opened. */
export interface OpenFdOptions {
  /** Which way bytes go. */
  direction: Direction;
  /**
   * Byte offset of the first byte, default 0. When writing to a regular file, what lies before is
   * kept, the rest is cut off, and the file is written in place: QEMU's `file:path,offset=N`.
   */
  offset?: number | undefined;
  /** Ends the opening; it has no effect on a table that has been given out. */
  signal?: AbortSignal | undefined;
  /** Permission bits of a new file, less the process's umask. Default 0o600. */
  mode?: number | undefined;
  /** Whether an existing file is replaced. Default true; no effect with an offset. */
  replace?: boolean | undefined;
  /**
   * Whether a file that did not get whole is kept under its temporary name, or a function that decides by
   * the error. Default false.
   */
  keepPartial?: boolean | KeepPartial | undefined;
}

/** A path opened for writing. */
export interface PathWriteOps extends FdWriteOps {
  /** The file that is written in the end: an absolute path, links resolved; a device's as it was given. */
  readonly path: string;
  /**
   * Temporary name of the file until `close()`, and the name that a file which did not get whole was kept
   * under after that; `undefined` where it is written in place.
   */
  readonly partialPath: string | undefined;
}

/**
 * Opens a regular file, a block device or a character device. FIFOs are `openFifo`'s; `openPath` takes
 * either.
 *
 * A regular file is written under a temporary name beside its own (`.name.writer.qemu-file-partial`,
 * mode 0600). `close()` makes it durable and gives it its name, at one stroke and only if every write
 * went well; `close(error)` removes it. So the name never shows half a file, and a file that had it
 * stays until the new one is whole. A process that is killed leaves the temporary file behind: it goes
 * when the same name is written to again, once its writer is known to be dead, or was on another
 * machine, or in another container, and has not touched the file for a day.
 * Devices, and files with an `offset`, are written in place, and synced by `close()`.
 * Where the path is a symbolic link, what it points at is replaced, and the link stays.
 *
 * @param path - What to open.
 * @param options - Direction, offset, signal and what else there is.
 * @returns A table as `fdOps` makes it.
 * @throws {QemuFileError} The system's own code (`ENOENT`, `EACCES`, `ELOOP`, `ENOSPC` …); `EISDIR` a
 *   directory; `EEXIST` a file that is not to be replaced; `ENOTSUP` a FIFO or a socket; `ESPIPE` an
 *   offset on a device that has none; `EINVAL` not an offset; `ECANCELED` the signal. `close()` fails
 *   with the error of the first failed write, if it was given none itself.
 * @example
 * ```js
 * const ops = await openFd('/var/lib/vm/save.bin', { direction: 'write' });
 * const file = new QemuFile(ops);
 * ```
 */
export function openFd(
  path: string,
  options: OpenFdOptions & { direction: 'read' },
): Promise<FdReadOps>;
export function openFd(
  path: string,
  options: OpenFdOptions & { direction: 'write' },
): Promise<PathWriteOps>;
export function openFd(path: string, options: OpenFdOptions): Promise<FdReadOps | PathWriteOps>;
export async function openFd(
  path: string,
  options: OpenFdOptions,
): Promise<FdReadOps | PathWriteOps> {
  const { offset = 0, signal } = options;
  try {
    checkSignal(signal);
    if (!Number.isSafeInteger(offset) || offset < 0) {
      throw openError('EINVAL', `${offset} is not an offset`);
    }
    if (path.includes('\0')) throw openError('EINVAL', 'a path has no NUL in it');
    return options.direction === 'read'
      ? await openToRead(path, offset, signal)
      : await openToWrite(path, offset, options);
  } catch (error) {
    throw toQemuFileError(error, { operation: 'open' });
  }
}

async function openToRead(
  path: string,
  offset: number,
  signal: AbortSignal | undefined,
): Promise<FdReadOps> {
  checkKind(path, await fs.promises.stat(path));
  checkSignal(signal);
  // Non-blocking, lest a terminal without carrier, or a FIFO that came in between, keep a thread.
  const fd = await openFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
  return orClose(fd, () => {
    checkSignal(signal);
    return fdTable(fd, { direction: 'read', offset }) as FdReadOps;
  });
}

async function openToWrite(
  path: string,
  offset: number,
  options: OpenFdOptions,
): Promise<PathWriteOps> {
  const { signal, mode = PRIVATE } = options;
  const target = await targetOf(path);
  checkSignal(signal);
  if (target.stats !== undefined) checkKind(path, target.stats);
  const isDevice = target.stats !== undefined && !target.stats.isFile();
  if (isDevice || offset > 0) return openInPlace(target.path, isDevice, offset, mode, signal);
  if (target.stats !== undefined && options.replace === false) throw takenError(target.path);
  return openPartial(target.path, mode, options);
}

async function openInPlace(
  path: string,
  isDevice: boolean,
  offset: number,
  mode: number,
  signal: AbortSignal | undefined,
): Promise<PathWriteOps> {
  const kind = isDevice ? O_NOCTTY : O_CREAT | O_NOFOLLOW;
  const fd = await openFile(path, O_WRONLY | O_NONBLOCK | kind, mode);
  return orClose(fd, async () => {
    checkSignal(signal);
    const stats = fs.fstatSync(fd);
    if (stats.isFile()) await truncateFd(fd, offset);
    const canSync = stats.isFile() || stats.isBlockDevice();
    const finish: Finish = async (error, failed) => {
      if (error !== undefined) return;
      if (failed !== undefined) throw failed;
      if (canSync) await inClose(() => syncFd(fd));
    };
    return writeTable(fd, offset, finish, path, () => undefined);
  });
}

async function openPartial(
  path: string,
  mode: number,
  options: OpenFdOptions,
): Promise<PathWriteOps> {
  const file = await PartialFile.create(path, mode, options.replace ?? true);
  const { keepPartial = false } = options;
  const discard = async (error: Error): Promise<void> => {
    if (keepPartial !== false) {
      const path = await file.keep();
      if (keepPartial === true || keepPartial(error, path)) return;
    }
    await inClose(() => file.discard());
  };
  const finish: Finish = async (error, failed) => {
    if (error !== undefined || failed !== undefined) {
      await discard((error ?? failed) as Error);
      if (error === undefined) throw failed as Error;
      return;
    }
    try {
      await inClose(() => file.publish());
    } catch (failure) {
      await discard(failure as Error);
      throw failure;
    }
  };
  return orClose(file.fd, async () => {
    try {
      checkSignal(options.signal);
      return writeTable(file.fd, 0, finish, path, () => file.path);
    } catch (error) {
      await file.discard();
      throw error;
    }
  });
}

function writeTable(
  fd: number,
  offset: number,
  finish: Finish,
  path: string,
  partialPath: () => string | undefined,
): PathWriteOps {
  const table = fdTable(fd, { direction: 'write', offset }, finish) as FdWriteOps;
  return {
    ...table,
    path,
    get partialPath() {
      return partialPath();
    },
  };
}

/** What writing to a path is about to touch: the path behind its links, and what is there. */
async function targetOf(path: string): Promise<{ path: string; stats?: fs.Stats }> {
  let at = path;
  for (let links = 0; links < MAX_LINKS; links++) {
    try {
      const stats = await fs.promises.stat(at);
      return { path: stats.isFile() ? await fs.promises.realpath(at) : at, stats };
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENOENT') throw error;
    }
    // Nothing is there, but the path may be a link to where something shall be.
    const directory = await fs.promises.realpath(dirname(at));
    const link = await linkAt(at);
    if (link === undefined) {
      if (at === '') throw openError('ENOENT', 'the path is empty');
      if (at.endsWith('/')) throw openError('EISDIR', `${at} can only be a directory`);
      return { path: join(directory, basename(at)) };
    }
    at = resolve(directory, link);
  }
  throw openError('ELOOP', `${path} leads through too many symbolic links`);
}

async function linkAt(path: string): Promise<string | undefined> {
  try {
    return await fs.promises.readlink(path);
  } catch {
    return undefined;
  }
}

function checkKind(path: string, stats: fs.Stats): void {
  if (stats.isDirectory()) throw openError('EISDIR', `${path} is a directory`);
  if (stats.isFIFO()) throw openError('ENOTSUP', `${path} is a FIFO: open it with openFifo`);
  if (stats.isSocket()) throw openError('ENOTSUP', `${path} is a socket: use unix:${path}`);
}

function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal, 'open');
}

async function orClose<T>(fd: number, use: () => T | Promise<T>): Promise<T> {
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
