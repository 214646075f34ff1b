import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { noop } from '../../../lib/util/noop.ts';
import { closeFd, openFile, syncFd } from '../fs-promises.ts';
import { PartialNames } from './partial-name.ts';
import { ownWriter, removeStalePartials, TOUCH_INTERVAL_MS } from './stale-partials.ts';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = fs.constants;

/** Error codes of file systems that do not sync directories, or not for this user. */
const NO_DIRECTORY_SYNC: ReadonlySet<unknown> = new Set([
  'EACCES',
  'EINVAL',
  'EISDIR',
  'ENOTSUP',
  'EPERM',
]);

/** A file that has a temporary name until it is complete. The caller ends with `publish`, `keep` or `discard`. */
export class PartialFile {
  /** Descriptor, open for writing. The caller closes it. */
  readonly fd: number;
  readonly #target: string;
  readonly #keptPath: string;
  readonly #canReplace: boolean;
  #path: string;
  readonly #touchTimer: NodeJS.Timeout;

  private constructor(
    fd: number,
    path: string,
    keptPath: string,
    target: string,
    canReplace: boolean,
  ) {
    this.fd = fd;
    this.#path = path;
    this.#keptPath = keptPath;
    this.#target = target;
    this.#canReplace = canReplace;
    // Bytes may arrive days later, and until then other processes must see that the file is in use. The path is
    // used because by the time of the call the number of the descriptor may mean another file.
    this.#touchTimer = setInterval(() => {
      const now = new Date();
      fs.lutimes(this.#path, now, now, noop);
    }, TOUCH_INTERVAL_MS);
    this.#touchTimer.unref();
  }

  /** Its path at present. */
  get path(): string {
    return this.#path;
  }

  /**
   * Create a partial file in the directory of its final name, so that both are on one file system. Before that,
   * remove the partial files of this name whose writers were killed.
   *
   * @param target - The final path.
   * @param mode - Permission bits, less the process's umask.
   * @param replace - Whether `publish` replaces a file that then has the final name.
   * @throws The system's own error, such as `ENOSPC` or `EACCES`.
   */
  static async create(target: string, mode: number, replace: boolean): Promise<PartialFile> {
    const directory = dirname(target);
    const names = new PartialNames(basename(target));
    await removeStalePartials(directory, names);
    const random = randomBytes(6).toString('hex');
    const writer = ownWriter();
    const keptPath = join(directory, names.kept(random));
    const path = writer === undefined ? keptPath : join(directory, names.written(writer, random));
    const fd = await openFile(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
    return new PartialFile(fd, path, keptPath, target, replace);
  }

  /**
   * Make the bytes durable, give the file its final name in one atomic step, and make the name durable.
   *
   * @throws `EEXIST` a file has the final name and must not be replaced.
   */
  async publish(): Promise<void> {
    await syncFd(this.fd);
    if (this.#canReplace) {
      await fs.promises.rename(this.#path, this.#target);
    } else {
      // Unlike rename(2), link(2) never replaces.
      await fs.promises.link(this.#path, this.#target);
      await fs.promises.unlink(this.#path);
    }
    clearInterval(this.#touchTimer);
    await syncDirectory(dirname(this.#target));
  }

  /**
   * Leave the file as it is, under a name that is never removed as stale.
   *
   * @returns Its path.
   */
  async keep(): Promise<string> {
    clearInterval(this.#touchTimer);
    try {
      await fs.promises.rename(this.#path, this.#keptPath);
      this.#path = this.#keptPath;
    } catch {
      // The file still has its previous name.
    }
    return this.#path;
  }

  /** Remove the file. */
  async discard(): Promise<void> {
    clearInterval(this.#touchTimer);
    await fs.promises.rm(this.#path, { force: true });
  }
}

/** Make the names in a directory durable, where the file system can. @see fsync(2) */
export async function syncDirectory(path: string): Promise<void> {
  let fd: number | undefined;
  try {
    fd = await openFile(path, O_RDONLY | O_DIRECTORY, 0);
    await syncFd(fd);
  } catch (error) {
    if (!NO_DIRECTORY_SYNC.has((error as { code?: unknown }).code)) throw error;
  } finally {
    if (fd !== undefined) await closeFd(fd);
  }
}

/** Return the error for a final name that is in use by a file that must not be replaced. */
export function existsError(path: string): QemuFileError {
  return new QemuFileError('EEXIST', `${path} already exists`, { operation: 'open' });
}
