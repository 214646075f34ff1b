import fs from 'node:fs';
import { closeFd, openFile, truncateFd } from '../../adapters/file/fs-promises.ts';
import { existsError, PartialFile } from '../../adapters/file/partial/partial-file.ts';
import { findTarget } from '../../adapters/file/target-path.ts';
import { QemuFileError, toQemuFileError } from '../contract/errors.ts';
import { PRIVATE_MODE, SparseFile } from './sparse-file.ts';

const { O_NOFOLLOW, O_RDONLY } = fs.constants;

/** Options of `SparseOutput.create`. */
export interface SparseOutputOptions {
  /** Permission bits of the file; the process's umask applies. Default 0o600. */
  mode?: number | undefined;
  /** Whether an existing file is replaced. Default true. */
  replace?: boolean | undefined;
}

/**
 * A sparse file that gets its name once it is complete; until then it has a temporary name in the same
 * directory. Finish it with `publish` or `discard`.
 *
 * @example
 * ```js
 * const output = await SparseOutput.create('ram.raw');
 * output.store.write(0x1000, new Uint8Array(4096).fill(1));
 * await output.publish(1 << 20); // a file of 1 MiB, 4 KiB of it on disk
 * ```
 */
export class SparseOutput {
  /** The contents. */
  readonly store: SparseFile;
  readonly #file: PartialFile;

  private constructor(store: SparseFile, file: PartialFile) {
    this.store = store;
    this.#file = file;
  }

  /**
   * Create the file under a temporary name.
   *
   * @param path - Final name. If it is a symbolic link, its target is created or replaced.
   * @throws {QemuFileError} (rejects) The system's own code; `EEXIST` if the file exists and `replace` is
   *   false, `ENOTSUP` if the path is not a regular file.
   */
  static async create(path: string, options: SparseOutputOptions = {}): Promise<SparseOutput> {
    const { mode = PRIVATE_MODE, replace = true } = options;
    try {
      const target = await resolveTarget(path, replace);
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
   * Set the length of the file, sync it to disk and rename it to its final name. On failure it is
   * discarded.
   *
   * @param length - Bytes of the file; bytes that were not written are zeros.
   * @throws {QemuFileError} (rejects) The system's own code; the error of an earlier write that failed.
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
      // The system's messages about a descriptor do not name the file.
      const { code } = toQemuFileError(error);
      const reason = `cannot finish ${this.store.name}`;
      throw new QemuFileError(code, reason, { operation: 'close', cause: error });
    }
    this.store.close();
  }

  /** Remove what was written. May be called again. */
  async discard(): Promise<void> {
    this.store.close();
    try {
      await this.#file.discard();
    } catch (error) {
      throw toQemuFileError(error, { operation: 'close' });
    }
  }
}

/** Return the path of the regular file that writing to `path` creates or replaces. */
async function resolveTarget(path: string, replace: boolean): Promise<string> {
  const target = await findTarget(path);
  if (target.stats === undefined) return target.path;
  if (!target.stats.isFile()) {
    throw new QemuFileError('ENOTSUP', `${path} is not a regular file`, { operation: 'open' });
  }
  if (!replace) throw existsError(path);
  return target.path;
}
