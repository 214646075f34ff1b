import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { toQemuFileError } from '../contract/errors.ts';

/** A directory that only this user can look into, for a socket that only this user's QEMU shall find. */
export class PrivateDirectory implements AsyncDisposable {
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
  }

  /**
   * Makes one, with mode 0700.
   *
   * @param parent - Where. Default: the system's directory of temporary files.
   * @throws {QemuFileError} (rejects) the system's own code.
   */
  static async make(parent: string = tmpdir()): Promise<PrivateDirectory> {
    try {
      return new PrivateDirectory(await mkdtemp(join(parent, 'qemu-file-')));
    } catch (error) {
      throw toQemuFileError(error, { operation: 'mkdtemp' });
    }
  }

  /** Gives the path of a name in it. */
  join(name: string): string {
    return join(this.#path, name);
  }

  /** Removes it, and whatever is in it, if that can be done: what it was for does not fail for that. */
  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#path, { recursive: true, force: true }).catch(() => {});
  }
}
