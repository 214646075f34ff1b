import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { QemuFileError } from '../lib/errors.ts';
import { closeFd, openFile, syncFd } from './fs-calls.ts';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = fs.constants;

/** How the name of a file that is not whole yet ends. */
const PARTIAL_SUFFIX = '.qemu-file-partial';

/** Bytes of the final name kept in the temporary one: file names end at 255 bytes. */
const KEPT_NAME_BYTES = 200;

/** Codes with which file systems say that they do not sync directories, or not for us. */
const NO_DIRECTORY_SYNC: ReadonlySet<unknown> = new Set([
  'EACCES',
  'EINVAL',
  'EISDIR',
  'ENOTSUP',
  'EPERM',
]);

/** A file that is written under a temporary name until it is whole. */
export class PartialFile {
  /** Descriptor, open for writing; whoever holds the object closes it. */
  readonly fd: number;
  /** The temporary name. */
  readonly path: string;
  readonly #target: string;
  readonly #replace: boolean;

  private constructor(fd: number, path: string, target: string, replace: boolean) {
    this.fd = fd;
    this.path = path;
    this.#target = target;
    this.#replace = replace;
  }

  /**
   * Makes one beside its final name, so that the two are on one file system.
   *
   * @param target - The final name.
   * @param mode - Permission bits.
   * @param replace - Whether a file that has the final name at the end is replaced.
   */
  static async create(target: string, mode: number, replace: boolean): Promise<PartialFile> {
    const kept = Buffer.from(basename(target)).subarray(0, KEPT_NAME_BYTES).toString();
    const random = randomBytes(6).toString('hex');
    const path = join(dirname(target), `.${kept}.${random}${PARTIAL_SUFFIX}`);
    const fd = await openFile(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
    return new PartialFile(fd, path, target, replace);
  }

  /**
   * Makes the bytes durable, gives the file its final name at one stroke, and makes the name durable.
   *
   * @throws `EEXIST` when there is a file of that name, which is not to be replaced.
   */
  async publish(): Promise<void> {
    await syncFd(this.fd);
    if (this.#replace) {
      await fs.promises.rename(this.path, this.#target);
    } else {
      // Unlike rename(2), link(2) never replaces.
      await fs.promises.link(this.path, this.#target);
      await fs.promises.unlink(this.path);
    }
    await syncDirectory(dirname(this.#target));
  }

  /** Removes the file. */
  async discard(): Promise<void> {
    await fs.promises.rm(this.path, { force: true });
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
