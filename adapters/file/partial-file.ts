import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { QemuFileError } from '../../lib/contract/errors.ts';
import { noop } from '../../lib/util/noop.ts';
import { closeFd, openFile, syncFd } from './fs-promises.ts';
import { PartialNames } from './partial-name.ts';
import { ownWriter, removeStalePartials, TOUCH_MS } from './stale-partials.ts';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = fs.constants;

/** Codes with which file systems say that they do not sync directories, or not for us. */
const NO_DIRECTORY_SYNC: ReadonlySet<unknown> = new Set([
  'EACCES',
  'EINVAL',
  'EISDIR',
  'ENOTSUP',
  'EPERM',
]);

/** A file that is written under a temporary name until it is whole. Ends with `publish`, `keep` or `discard`. */
export class PartialFile {
  /** Descriptor, open for writing; whoever holds the object closes it. */
  readonly fd: number;
  readonly #target: string;
  readonly #keptPath: string;
  readonly #replace: boolean;
  #path: string;
  readonly #touching: NodeJS.Timeout;

  private constructor(
    fd: number,
    path: string,
    keptPath: string,
    target: string,
    replace: boolean,
  ) {
    this.fd = fd;
    this.#path = path;
    this.#keptPath = keptPath;
    this.#target = target;
    this.#replace = replace;
    // Bytes may not come for days, and others must see all that time that somebody waits for them. By its
    // path, because the number of the descriptor may belong to another file by the time of the call.
    this.#touching = setInterval(() => {
      const now = new Date();
      fs.lutimes(this.#path, now, now, noop);
    }, TOUCH_MS);
    this.#touching.unref();
  }

  /** Where it is for the time being. */
  get path(): string {
    return this.#path;
  }

  /**
   * Makes one beside its final name, so that the two are on one file system. Before that, what processes
   * that were killed left there of files of this name is removed.
   *
   * @param target - The final name.
   * @param mode - Permission bits.
   * @param replace - Whether a file that has the final name at the end is replaced.
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
   * Makes the bytes durable, gives the file its final name at one stroke, and makes the name durable.
   *
   * @throws `EEXIST` when there is a file of that name, which is not to be replaced.
   */
  async publish(): Promise<void> {
    await syncFd(this.fd);
    if (this.#replace) {
      await fs.promises.rename(this.#path, this.#target);
    } else {
      // Unlike rename(2), link(2) never replaces.
      await fs.promises.link(this.#path, this.#target);
      await fs.promises.unlink(this.#path);
    }
    clearInterval(this.#touching);
    await syncDirectory(dirname(this.#target));
  }

  /**
   * Leaves the file as it is, under a name that nobody takes for that of a file which is left over.
   *
   * @returns Where it is now.
   */
  async keep(): Promise<string> {
    clearInterval(this.#touching);
    try {
      await fs.promises.rename(this.#path, this.#keptPath);
      this.#path = this.#keptPath;
    } catch {
      // It is there all the same.
    }
    return this.#path;
  }

  /** Removes the file. */
  async discard(): Promise<void> {
    clearInterval(this.#touching);
    await fs.promises.rm(this.#path, { force: true });
  }
}

async function syncDirectory(path: string): Promise<void> {
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

/** The error of a final name that is taken and must not be replaced. */
export function takenError(path: string): QemuFileError {
  return new QemuFileError('EEXIST', `${path} exists already`, { operation: 'open' });
}
