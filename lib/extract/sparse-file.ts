import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeFd, openFile, truncateFd } from '../../adapters/file/fs-promises.ts';
import { PartialFile, takenError } from '../../adapters/file/partial-file.ts';
import { QemuFileError, toQemuFileError } from '../contract/errors.ts';
import { PageSet } from '../migration/memory/page-set.ts';
import type { PageStore } from '../migration/memory/page-store.ts';

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR } = fs.constants;

/** Permission bits of new files: a guest's memory is its owner's business only. */
const PRIVATE = 0o600;

/** What is kept account of: file systems make holes of blocks of this size. */
const UNIT = 4096;

/** Bytes that go into the file with one call, gathered from pages that follow each other. */
const GATHERED = 262_144;

const ZEROS = new Uint8Array(GATHERED);

/**
 * A store in a file, which has holes where nothing was written. Writes are gathered: `flush()` brings what
 * is left into the file.
 */
export class SparseFile implements PageStore {
  /** What it is called in errors: a path, or what else it is. */
  readonly name: string;
  readonly #fd: number;
  readonly #readFd: number;
  /** Units in which there is, or was, something else than zeros. */
  readonly #written = new PageSet();
  readonly #pending = new Uint8Array(GATHERED);
  #pendingAt = 0;
  #pendingLength = 0;
  #failure: QemuFileError | undefined;
  #isClosed = false;

  /**
   * @param fd - Open for writing, of a new and empty file; `close()` closes it.
   * @param name - What errors call it.
   * @param readFd - Another descriptor of the file, where `fd` cannot be read from; `close()` closes it, too.
   */
  constructor(fd: number, name: string, readFd: number = fd) {
    this.name = name;
    this.#fd = fd;
    this.#readFd = readFd;
  }

  /** The error of the first write that failed: the file is not to be relied on. */
  get failure(): QemuFileError | undefined {
    return this.#failure;
  }

  /** @throws {QemuFileError} The system's own code, such as `ENOSPC`; also of earlier writes that waited. */
  write(at: number, bytes: Uint8Array): void {
    this.#written.add(Math.floor(at / UNIT), Math.ceil((at + bytes.length) / UNIT));
    this.#put(at, bytes);
  }

  zero(at: number, length: number): void {
    const end = at + length;
    for (const [from, to] of this.#written.runs(Math.floor(at / UNIT), Math.ceil(end / UNIT))) {
      const stop = Math.min(to * UNIT, end);
      for (let next = Math.max(from * UNIT, at); next < stop; next += GATHERED) {
        this.#put(next, ZEROS.subarray(0, Math.min(GATHERED, stop - next)));
      }
    }
    this.#written.remove(Math.ceil(at / UNIT), Math.floor(end / UNIT));
  }

  read(at: number, target: Uint8Array): void {
    const end = this.#pendingAt + this.#pendingLength;
    if (at < end && at + target.length > this.#pendingAt) {
      if (at >= this.#pendingAt && at + target.length <= end) {
        const start = at - this.#pendingAt;
        target.set(this.#pending.subarray(start, start + target.length));
        return;
      }
      this.flush();
    }
    let done = 0;
    while (done < target.length) {
      const size = this.#call('read', at + done, () =>
        fs.readSync(this.#readFd, target, done, target.length - done, at + done),
      );
      // Behind the end of the file nothing was written yet.
      if (size === 0) target.fill(0, done);
      done = size === 0 ? target.length : done + size;
    }
  }

  /** Brings all that was written into the file. */
  flush(): void {
    if (this.#pendingLength === 0) return;
    this.#writeNow(this.#pendingAt, this.#pending.subarray(0, this.#pendingLength));
    this.#pendingLength = 0;
  }

  /** Flushes, and gives the file its length: bytes that were not written are zeros. */
  truncate(length: number): void {
    this.flush();
    this.#call('truncate', length, () => fs.ftruncateSync(this.#fd, length));
  }

  /** Closes the file without flushing. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#readFd !== this.#fd) fs.closeSync(this.#readFd);
    this.#call('close', undefined, () => fs.closeSync(this.#fd));
  }

  #put(at: number, bytes: Uint8Array): void {
    const start = at - this.#pendingAt;
    const fits = start >= 0 && start <= this.#pendingLength && start + bytes.length <= GATHERED;
    if (!fits) {
      this.flush();
      if (bytes.length >= GATHERED) {
        this.#writeNow(at, bytes);
        return;
      }
      this.#pendingAt = at;
    }
    this.#pending.set(bytes, at - this.#pendingAt);
    this.#pendingLength = Math.max(this.#pendingLength, at - this.#pendingAt + bytes.length);
  }

  #writeNow(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const size = this.#call('write', at + done, () =>
        fs.writeSync(this.#fd, bytes, done, bytes.length - done, at + done),
      );
      if (size === 0) throw this.#fail('write', at + done, undefined);
      done += size;
    }
  }

  #call<T>(operation: string, position: number | undefined, call: () => T): T {
    try {
      return call();
    } catch (error) {
      throw this.#fail(operation, position, error);
    }
  }

  #fail(operation: string, position: number | undefined, cause: unknown): QemuFileError {
    const { code } = toQemuFileError(cause);
    const reason = `cannot ${operation} ${this.name}`;
    const error = new QemuFileError(code, reason, { operation, position, cause });
    if (operation !== 'read') this.#failure ??= error;
    return error;
  }
}

/**
 * Makes a file without a name, mode 0600, which is gone when it is closed or the process ends, in
 * whatever way.
 *
 * @param directory - Where it takes room. Default: the system's directory of temporary files.
 * @throws {QemuFileError} The system's own code.
 */
export function temporarySparseFile(directory: string = tmpdir()): SparseFile {
  const path = join(directory, `.qemu-file-${randomBytes(16).toString('hex')}`);
  let fd: number | undefined;
  try {
    fd = fs.openSync(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, PRIVATE);
    fs.unlinkSync(path);
    return new SparseFile(fd, `a temporary file in ${directory}`);
  } catch (error) {
    if (fd !== undefined) fs.closeSync(fd);
    const reason = `cannot make a temporary file in ${directory}`;
    throw new QemuFileError(toQemuFileError(error).code, reason, {
      operation: 'open',
      cause: error,
    });
  }
}

/** How a `SparseOutput` is made. */
export interface SparseOutputOptions {
  /** Permission bits of the file, less the process's umask. Default 0o600. */
  mode?: number | undefined;
  /** Whether an existing file is replaced. Default true. */
  replace?: boolean | undefined;
}

/**
 * A file with holes that gets its name when it is whole; until then it has a temporary one beside it. Ends
 * with `publish` or `discard`.
 */
export class SparseOutput {
  /** Its contents. */
  readonly store: SparseFile;
  readonly #file: PartialFile;

  private constructor(store: SparseFile, file: PartialFile) {
    this.store = store;
    this.#file = file;
  }

  /**
   * Makes one.
   *
   * @param path - Its name in the end; where that is a symbolic link to a file, the file is replaced.
   * @throws {QemuFileError} (rejects) The system's own code; `EEXIST` a file that is not to be replaced,
   *   `ENOTSUP` something that is no file.
   */
  static async create(path: string, options: SparseOutputOptions = {}): Promise<SparseOutput> {
    const { mode = PRIVATE, replace = true } = options;
    try {
      const target = await targetOf(path, replace);
      const file = await PartialFile.create(target, mode, replace);
      try {
        const readFd = await openFile(file.path, O_RDONLY | O_NOFOLLOW, 0);
        return new SparseOutput(new SparseFile(file.fd, path, readFd), file);
      } catch (error) {
        await closeFd(file.fd);
        await file.discard();
        throw error;
      }
    } catch (error) {
      throw toQemuFileError(error, { operation: 'open' });
    }
  }

  /**
   * Gives the file its length, makes it durable, and gives it its name at one stroke. If that fails it is
   * discarded.
   *
   * @throws {QemuFileError} (rejects) The system's own code; the error of a write that failed earlier.
   */
  async publish(length: number): Promise<void> {
    try {
      this.store.flush();
      if (this.store.failure !== undefined) throw this.store.failure;
      await truncateFd(this.#file.fd, length);
      await this.#file.publish();
    } catch (error) {
      await this.discard();
      if (error instanceof QemuFileError) throw error;
      // What the system says of descriptors names no file.
      const { code } = toQemuFileError(error);
      const reason = `cannot finish ${this.store.name}`;
      throw new QemuFileError(code, reason, { operation: 'close', cause: error });
    }
    this.store.close();
  }

  /** Removes what was written. May be called again. */
  async discard(): Promise<void> {
    this.store.close();
    try {
      await this.#file.discard();
    } catch (error) {
      throw toQemuFileError(error, { operation: 'close' });
    }
  }
}

/** The path behind a symbolic link, if a file is there. */
async function targetOf(path: string, replace: boolean): Promise<string> {
  let stats: fs.Stats;
  try {
    stats = await fs.promises.stat(path);
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'ENOENT') throw error;
    return path;
  }
  if (!stats.isFile()) {
    throw new QemuFileError('ENOTSUP', `${path} is no file`, { operation: 'open' });
  }
  if (!replace) throw takenError(path);
  return fs.promises.realpath(path);
}
