import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { dirname, join } from 'node:path';
import { abortError, QemuFileError } from '../../lib/contract/errors.ts';
import { noop } from '../../lib/util/noop.ts';
import { closeFd, openFile, syncFd } from '../file/fs-promises.ts';
import { PartialNames } from '../file/partial/partial-name.ts';
import { ownWriter } from '../file/partial/stale-partials.ts';
import { listObjects, removeLeftoverFiles } from './directory-walk.ts';
import { fileError, hasCode, notAnObject } from './file-error.ts';
import { checkKey, checkPrefix, checkRange } from './object-key.ts';
import type {
  LeftoverOptions,
  ObjectStorage,
  StorageOptions,
  StoredObject,
} from './object-storage.ts';
import { OpenObjects } from './open-objects.ts';
import { readAt, writeAll } from './read-write.ts';
import { SharedSync } from './shared-sync.ts';

/*
 * An object is a file whose path below the directory is its key. It is written under a temporary name beside
 * its final one, made durable, and then gets its name by rename(2), or by link(2), which fails if the name
 * exists. The names of temporary files begin with a dot, and words of keys do not.
 *
 * An object is replaced by a file of another inode, never changed, so a descriptor of it stays valid while others
 * replace or remove it.
 *
 * A user who can write to the directory can plant symbolic links and special files: below the directory, links
 * are not followed and files that are not regular are not opened.
 */

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = fs.constants;

const DIRECTORY_MODE = 0o700;
const FILE_MODE = 0o600;

/** Error codes of link(2) on file systems without hard links. */
const NO_LINKS: ReadonlySet<unknown> = new Set(['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS']);

/**
 * Return object storage in a directory. Directories have mode 0700 and objects mode 0600, less the process's
 * umask. The directory is created by the first `put`; the directory that contains it must exist.
 *
 * `put` returns when the object and its name are durable (fsync of the file, then of its directory). A process
 * that is killed leaves a temporary file, which `removeLeftovers` removes once its writer is certainly gone: in
 * the same process-id namespace when that process no longer exists, otherwise when the file is a day old.
 *
 * `getRange` keeps the 64 objects that it read last open until a second passes without a call, or `close`. What
 * another process replaces or removes meanwhile is read as it was; after a `put` or `remove` of this storage, the
 * object is opened anew.
 *
 * On NFS, mount with the default `sync`-on-close semantics, version 3 or later. `ifAbsent` is atomic between hosts;
 * `list` and `stat` may lag by the attribute cache (`acdirmax`, 60 s by default); and the clocks of hosts and
 * server must agree within the age that `removeLeftovers` is given, unless it is given the server's time. On a file
 * system without hard links (FAT, exFAT, some FUSE file systems), `canPutIfAbsent` becomes false with the first
 * `put`: two calls with `ifAbsent` for one key can then both succeed, so writers have to agree by other objects, as
 * on S3 without conditional PUT.
 *
 * @param path - Of the directory. If it is a symbolic link, its target is used; links below it are not followed.
 * @returns Storage whose methods reject with a `QemuFileError` that names the object's path: `ENOENT`, `EACCES`,
 *   `EEXIST`, `EFBIG`, `ENODATA`, `ENOSPC`, `EINVAL` for an invalid key, `EIO` for a failing disk and for what is
 *   not a regular file, `ECANCELED`.
 * @throws {QemuFileError} `EINVAL` for an empty path or one with NUL.
 */
export function directoryStorage(path: string): ObjectStorage {
  if (path === '' || path.includes('\0')) {
    throw new QemuFileError('EINVAL', 'the path of the directory is empty or contains NUL', {
      operation: 'directoryStorage',
    });
  }
  return new DirectoryStorage(path);
}

class DirectoryStorage implements ObjectStorage {
  readonly name: string;
  /** Null until the first `put`. */
  #canLink: boolean | null = null;
  readonly #sync = new SharedSync();
  readonly #open = new OpenObjects();

  constructor(path: string) {
    this.name = path.length > 1 ? path.replace(/\/+$/, '') || '/' : path;
  }

  get canPutIfAbsent(): boolean | null {
    return this.#canLink;
  }

  put(
    key: string,
    parts: readonly Uint8Array[],
    options: StorageOptions & { readonly ifAbsent?: boolean | undefined } = {},
  ): Promise<void> {
    return this.#run(key, 'put', options, async (path) => {
      await this.#makeDirectories(key);
      const temporary = temporaryPath(path);
      const flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
      const fd = await openFile(temporary, flags, FILE_MODE);
      try {
        await writeAll(fd, parts);
        await syncFd(fd);
        checkSignal(options.signal, 'put');
        this.#canLink ??= await hasHardLinks(temporary, temporaryPath(path));
        if (options.ifAbsent === true) await this.#publishIfAbsent(fd, temporary, path);
        else await fs.promises.rename(temporary, path);
      } catch (error) {
        await fs.promises.unlink(temporary).catch(noop);
        throw error;
      } finally {
        this.#open.forget(key);
        await closeFd(fd);
      }
      await this.#sync.sync(dirname(path));
    });
  }

  get(key: string, maxBytes: number, options: StorageOptions = {}): Promise<Buffer> {
    return this.#run(key, 'get', options, async (path) => {
      const fd = await this.#openObject(key, path);
      try {
        const bytes = fs.fstatSync(fd).size;
        if (bytes > maxBytes) {
          const reason = `${path}: the object has ${bytes} bytes; at most ${maxBytes} are read`;
          throw new QemuFileError('EFBIG', reason, { operation: 'get' });
        }
        return await readAt(fd, 0, bytes, path, 'get');
      } finally {
        await closeFd(fd);
      }
    });
  }

  getRange(
    key: string,
    offset: number,
    length: number,
    options: StorageOptions = {},
  ): Promise<Buffer> {
    return this.#run(key, 'getRange', options, (path) => {
      checkRange(offset, length, 'getRange');
      const open = () => this.#openObject(key, path);
      return this.#open.read(key, open, async (fd) => {
        const bytes = fs.fstatSync(fd).size;
        // Memory is allocated only for bytes that are there: the range may come from a damaged map.
        if (offset + length > bytes) {
          const reason = `${path}: the object ends at byte ${bytes}`;
          throw new QemuFileError('ENODATA', reason, { operation: 'getRange', position: offset });
        }
        return readAt(fd, offset, length, path, 'getRange');
      });
    });
  }

  withDescriptor<T>(
    key: string,
    work: (fd: number) => Promise<T>,
    options: StorageOptions = {},
  ): Promise<T> {
    return this.#run(key, 'getRange', options, (path) =>
      this.#open.read(key, () => this.#openObject(key, path), work),
    );
  }

  stat(key: string, options: StorageOptions = {}): Promise<StoredObject | null> {
    return this.#run(key, 'stat', options, async (path) => {
      try {
        await this.#checkDirectories(key);
        const stats = await fs.promises.lstat(path);
        if (stats.isDirectory()) return null;
        if (!stats.isFile()) throw notAnObject(path, stats, 'stat');
        return { key, bytes: stats.size, modifiedMs: stats.mtimeMs };
      } catch (error) {
        if (hasCode(error, 'ENOENT') || hasCode(error, 'ENOTDIR')) return null;
        throw error;
      }
    });
  }

  async *list(prefix: string, options: StorageOptions = {}): AsyncGenerator<StoredObject> {
    checkPrefix(prefix, 'list');
    try {
      yield* listObjects(this.name, prefix, () => checkSignal(options.signal, 'list'));
    } catch (error) {
      throw fileError(error, 'list', this.name);
    }
  }

  remove(key: string, options: StorageOptions = {}): Promise<void> {
    return this.#run(key, 'remove', options, async (path) => {
      try {
        await this.#checkDirectories(key);
        await fs.promises.unlink(path);
      } catch (error) {
        if (hasCode(error, 'ENOENT') || hasCode(error, 'ENOTDIR')) return;
        throw error;
      } finally {
        this.#open.forget(key);
      }
      // After a power failure, an object must not be gone that a removed object, back again, refers to.
      await this.#sync.sync(dirname(path));
    });
  }

  async removeLeftovers(olderThanMs: number, options: LeftoverOptions = {}): Promise<number> {
    const { signal, nowMs = Date.now() } = options;
    try {
      return await removeLeftoverFiles(this.name, { olderThanMs, nowMs }, () =>
        checkSignal(signal, 'removeLeftovers'),
      );
    } catch (error) {
      throw fileError(error, 'removeLeftovers', this.name);
    }
  }

  close(): Promise<void> {
    this.#open.close();
    return Promise.resolve();
  }

  async #run<T>(
    key: string,
    operation: string,
    { signal }: StorageOptions,
    work: (path: string) => Promise<T>,
  ): Promise<T> {
    checkKey(key, operation);
    checkSignal(signal, operation);
    const path = join(this.name, key);
    try {
      return await work(path);
    } catch (error) {
      throw fileError(error, operation, path);
    }
  }

  /** Return a descriptor of an object to read from. */
  async #openObject(key: string, path: string): Promise<number> {
    await this.#checkDirectories(key);
    // Without O_NONBLOCK, a FIFO would block a thread.
    const fd = await openFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    try {
      const stats = fs.fstatSync(fd);
      if (stats.isFile()) return fd;
      throw notAnObject(path, stats, 'get');
    } catch (error) {
      await closeFd(fd);
      throw error;
    }
  }

  /** Reject if a directory on the way to an object is a symbolic link, or is not there. */
  async #checkDirectories(key: string): Promise<void> {
    for (const path of this.#directoriesOf(key)) {
      const stats = await fs.promises.lstat(path);
      if (stats.isSymbolicLink()) throw notAnObject(path, stats, 'open');
    }
  }

  async #makeDirectories(key: string): Promise<void> {
    await this.#makeDirectory(this.name);
    for (const path of this.#directoriesOf(key)) {
      await this.#makeDirectory(path);
      const stats = await fs.promises.lstat(path);
      if (!stats.isDirectory()) throw notAnObject(path, stats, 'put');
    }
  }

  async #makeDirectory(path: string): Promise<void> {
    try {
      await fs.promises.mkdir(path, DIRECTORY_MODE);
    } catch (error) {
      if (hasCode(error, 'EEXIST')) return;
      // A file system that is mounted read-only, or a parent that is not ours, may hold the directory already.
      if (await isDirectory(path)) return;
      throw error;
    }
    await this.#sync.sync(dirname(path));
  }

  /** Return the directories below this one that contain an object, the outermost first. */
  #directoriesOf(key: string): string[] {
    const words = key.split('/');
    return words.slice(0, -1).map((_, index) => join(this.name, ...words.slice(0, index + 1)));
  }

  async #publishIfAbsent(fd: number, temporary: string, path: string): Promise<void> {
    if (this.#canLink === true) {
      try {
        await fs.promises.link(temporary, path);
        await fs.promises.unlink(temporary);
        return;
      } catch (error) {
        if (!hasCode(error, 'EEXIST') || !(await isSameFile(fd, path))) throw error;
        await fs.promises.unlink(temporary);
        return;
      }
    }
    const exists = await fs.promises.lstat(path).then(() => true, noop);
    if (exists === true) throw Object.assign(new Error('exists'), { code: 'EEXIST' });
    await fs.promises.rename(temporary, path);
  }
}

/** Return whether a file can have a second name. */
async function hasHardLinks(path: string, second: string): Promise<boolean> {
  try {
    await fs.promises.link(path, second);
    return true;
  } catch (error) {
    return !NO_LINKS.has((error as { code?: unknown }).code);
  } finally {
    await fs.promises.unlink(second).catch(noop);
  }
}

/** An NFS server whose answer was lost is asked again, and then reports `EEXIST` for its own success. */
async function isSameFile(fd: number, path: string): Promise<boolean> {
  const own = fs.fstatSync(fd, { bigint: true });
  const found = await fs.promises.lstat(path, { bigint: true });
  return own.ino === found.ino && own.dev === found.dev;
}

async function isDirectory(path: string): Promise<boolean> {
  const stats = await fs.promises.stat(path).catch(noop);
  return stats?.isDirectory() === true;
}

/** Return a path in the same directory, so that both are on one file system. */
function temporaryPath(path: string): string {
  const names = new PartialNames(path.slice(path.lastIndexOf('/') + 1));
  const random = randomBytes(6).toString('hex');
  const writer = ownWriter();
  const name = writer === undefined ? names.kept(random) : names.written(writer, random);
  return join(dirname(path), name);
}

function checkSignal(signal: AbortSignal | undefined, operation: string): void {
  if (signal?.aborted) throw abortError(signal, operation);
}
