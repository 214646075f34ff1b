import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { QemuFileError, toQemuFileError } from '../contract/errors.ts';
import { PageSet } from '../migration/memory/page-set.ts';
import type { PageStore } from '../migration/memory/page-store.ts';

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDWR } = fs.constants;

/** Permission bits of new files: only the owner may read a guest's memory. */
export const PRIVATE_MODE = 0o600;

/** Granularity at which written bytes are tracked: file systems make holes of blocks of this size. */
const UNIT_BYTES = 4096;

/** Most bytes per write call, gathered from adjacent pages. */
const GATHER_BYTES = 262_144;

const ZEROS = new Uint8Array(GATHER_BYTES);

/**
 * A page store in a file with holes where nothing was written. Writes to adjacent positions are gathered;
 * `flush()` writes what is pending.
 */
export class SparseFile implements PageStore {
  /** Name of the file in errors: its path or a description. */
  readonly name: string;
  readonly #fd: number;
  readonly #readFd: number;
  /** Units that hold or held something other than zeros. */
  readonly #written = new PageSet();
  readonly #pending = new Uint8Array(GATHER_BYTES);
  #pendingAt = 0;
  #pendingLength = 0;
  #failure: QemuFileError | undefined;
  #isClosed = false;

  /**
   * @param fd - Descriptor of a new, empty file, open for writing; `close()` closes it.
   * @param name - Name of the file in errors.
   * @param readFd - A second descriptor of the file, needed if `fd` is not readable; `close()` closes it.
   */
  constructor(fd: number, name: string, readFd: number = fd) {
    this.name = name;
    this.#fd = fd;
    this.#readFd = readFd;
  }

  /** Error of the first write that failed; after it the contents are incomplete. */
  get failure(): QemuFileError | undefined {
    return this.#failure;
  }

  /** @throws {QemuFileError} The system's own code, such as `ENOSPC`, of this write or of a gathered one. */
  write(at: number, bytes: Uint8Array): void {
    this.#written.add(Math.floor(at / UNIT_BYTES), Math.ceil((at + bytes.length) / UNIT_BYTES));
    this.#put(at, bytes);
  }

  zero(at: number, length: number): void {
    const end = at + length;
    for (const [from, to] of this.#written.runs(
      Math.floor(at / UNIT_BYTES),
      Math.ceil(end / UNIT_BYTES),
    )) {
      const stop = Math.min(to * UNIT_BYTES, end);
      for (let next = Math.max(from * UNIT_BYTES, at); next < stop; next += GATHER_BYTES) {
        this.#put(next, ZEROS.subarray(0, Math.min(GATHER_BYTES, stop - next)));
      }
    }
    this.#written.remove(Math.ceil(at / UNIT_BYTES), Math.floor(end / UNIT_BYTES));
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
      // Nothing was written past the end of the file yet.
      if (size === 0) target.fill(0, done);
      done = size === 0 ? target.length : done + size;
    }
  }

  /** Write the gathered bytes to the file. */
  flush(): void {
    if (this.#pendingLength === 0) return;
    this.#writeNow(this.#pendingAt, this.#pending.subarray(0, this.#pendingLength));
    this.#pendingLength = 0;
  }

  /** Flush, then set the length of the file; bytes that were not written are zeros. */
  truncate(length: number): void {
    this.flush();
    this.#call('truncate', length, () => fs.ftruncateSync(this.#fd, length));
  }

  /** Close the file without flushing. May be called again. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#readFd !== this.#fd) fs.closeSync(this.#readFd);
    this.#call('close', undefined, () => fs.closeSync(this.#fd));
  }

  #put(at: number, bytes: Uint8Array): void {
    const start = at - this.#pendingAt;
    const fits = start >= 0 && start <= this.#pendingLength && start + bytes.length <= GATHER_BYTES;
    if (!fits) {
      this.flush();
      if (bytes.length >= GATHER_BYTES) {
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
 * Create a sparse file without a name, mode 0600. The system frees it when it is closed or the process
 * ends, killed or not.
 *
 * @param directory - Directory that provides the space. Default: `os.tmpdir()`.
 * @throws {QemuFileError} The system's own code.
 */
export function temporarySparseFile(directory: string = tmpdir()): SparseFile {
  const path = join(directory, `.qemu-file-${randomBytes(16).toString('hex')}`);
  let fd: number | undefined;
  try {
    fd = fs.openSync(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, PRIVATE_MODE);
    fs.unlinkSync(path);
    return new SparseFile(fd, `a temporary file in ${directory}`);
  } catch (error) {
    if (fd !== undefined) fs.closeSync(fd);
    const reason = `cannot create a temporary file in ${directory}`;
    throw new QemuFileError(toQemuFileError(error).code, reason, {
      operation: 'open',
      cause: error,
    });
  }
}
