import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { toQemuFileError } from '../contract/errors.ts';
import { noop } from '../util/noop.ts';

/** A directory that only this user can enter, for a socket that no other user's process may reach. */
export class PrivateDirectory implements AsyncDisposable {
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
  }

  /**
   * Create a directory with mode 0700. It is made at once: a guest waits for it, and the thread pool would take longer.
   *
   * @param parent - Directory to create it in. Default: the system's directory for temporary files.
   * @throws {QemuFileError} The system's own code.
   */
  static create(parent: string = tmpdir()): PrivateDirectory {
    try {
      return new PrivateDirectory(mkdtempSync(join(parent, 'qemu-file-')));
    } catch (error) {
      throw toQemuFileError(error, { operation: 'mkdtemp' });
    }
  }

  /** Return the path of a name in the directory. */
  join(name: string): string {
    return join(this.#path, name);
  }

  /** Remove the directory and its contents. A failure is ignored, because the work that used it is done. */
  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#path, { recursive: true, force: true }).catch(noop);
  }
}
