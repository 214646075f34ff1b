import { chmod, link, lstat, mkdtemp, open, rename, rm, unlink } from 'node:fs/promises';
import net from 'node:net';
import { basename, dirname, join } from 'node:path';
import { QemuFileError, toQemuFileError } from '../../../lib/contract/errors.ts';
import { noop } from '../../../lib/util/noop.ts';
import { checkSocketPath, fitsSocketPath } from '../socket-path.ts';

const SOCKET_MODE = 0o600;

/** Prefix of the private directory, which a process that was killed at the wrong moment leaves. */
const DIRECTORY_PREFIX = '.qemu-file-';

/** Codes of link(2) on file systems without hard links. */
const NO_HARD_LINKS: ReadonlySet<string> = new Set(['ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EPERM']);

/** Reason why a directory cannot hold a socket, by the code of mkdtemp(3). */
const DIRECTORY_REASONS: Readonly<Record<string, string>> = {
  EACCES: 'this process may not create a socket in its directory',
  ENOENT: 'its directory does not exist',
  ENOTDIR: 'its directory is not a directory',
  EROFS: 'its file system is read-only',
};

/**
 * Listen at a path, with mode 0600 from the first moment that the path exists.
 *
 * bind(2) applies the umask, and the umask belongs to the whole process, with other code's files. So the
 * socket is bound in a new directory of mode 0700 beside its path, gets its mode there, and is then linked
 * to its path. link(2) does not replace anything, as bind(2) does not. Tools such as `ss` show the name in
 * the private directory, since that is what the kernel remembers.
 *
 * @param path - Where to listen. A socket that no process listens on is replaced.
 * @param listen - Have the server listen at a path, and wait until it does.
 * @param close - Have the server close.
 * @returns A function that removes the path, unless something else has replaced the socket.
 * @throws {QemuFileError} `EADDRINUSE` when another process listens there; `EEXIST` when it is not a socket;
 *   `ENAMETOOLONG`; `EINVAL` for an empty path or one with a NUL; `ENOENT`, `EACCES` … for its directory.
 */
export async function listenAtPath(
  path: string,
  listen: (path: string) => Promise<void>,
  close: () => void,
): Promise<() => Promise<void>> {
  checkSocketPath(path, 'listen');
  if (path === '' || path.includes('\0')) {
    throw listenError('EINVAL', path, 'the path must not be empty, nor contain NUL');
  }
  const directory = await makeDirectory(path);
  let isListening = false;
  try {
    const socket = await bindIn(directory, basename(path), listen);
    isListening = true;
    await chmod(socket, SOCKET_MODE);
    const { dev, ino } = await lstat(socket, { bigint: true });
    await publish(socket, path);
    return async () => {
      const stats = await lstat(path, { bigint: true }).catch(noop);
      if (stats?.dev === dev && stats.ino === ino) await unlink(path).catch(noop);
    };
  } catch (error) {
    if (isListening) close();
    throw toQemuFileError(error, { operation: 'listen' });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function makeDirectory(path: string): Promise<string> {
  try {
    return await mkdtemp(join(dirname(path), DIRECTORY_PREFIX));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'EIO';
    throw listenError(code, path, DIRECTORY_REASONS[code] ?? String(error), error);
  }
}

/** Bind in a directory and return the path of the socket. Paths too long for `sun_path` are made shorter. */
async function bindIn(
  directory: string,
  name: string,
  listen: (path: string) => Promise<void>,
): Promise<string> {
  const socket = join(directory, name);
  if (fitsSocketPath(socket)) {
    await listen(socket);
    return socket;
  }
  const short = join(directory, 's');
  if (fitsSocketPath(short)) {
    await listen(short);
  } else if (process.platform === 'linux') {
    const handle = await open(directory);
    try {
      await listen(`/proc/self/fd/${handle.fd}/s`);
    } finally {
      await handle.close();
    }
  } else {
    throw listenError('ENAMETOOLONG', socket, 'the path is too long to bind; use a shorter one');
  }
  return short;
}

/** Give a bound socket its path, if nothing is there, or a socket that no process listens on. */
async function publish(socket: string, path: string): Promise<void> {
  try {
    await moveTo(socket, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    if (!(await isAbandoned(path))) {
      throw listenError('EADDRINUSE', path, 'address already in use', error);
    }
    await unlink(path);
    await moveTo(socket, path);
  }
}

/** Move a socket to a path that does not exist. `EEXIST` if it does. */
async function moveTo(socket: string, path: string): Promise<void> {
  try {
    await link(socket, path);
  } catch (error) {
    if (!NO_HARD_LINKS.has((error as NodeJS.ErrnoException).code ?? '')) throw error;
    // Between these two another process could bind the path. There is no better way without hard links.
    const isTaken = await lstat(path).then(
      () => true,
      () => false,
    );
    if (isTaken)
      throw Object.assign(new Error('the path exists'), { code: 'EEXIST', cause: error });
    await rename(socket, path);
  }
}

/** Return whether a path is that of a socket which no process listens on. */
async function isAbandoned(path: string): Promise<boolean> {
  const stats = await lstat(path);
  if (!stats.isSocket()) {
    throw listenError('EEXIST', path, 'the path exists and is not a socket');
  }
  return new Promise((resolve) => {
    const probe = net.connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}

function listenError(code: string, path: string, reason: string, cause?: unknown): QemuFileError {
  return new QemuFileError(code, `unix:${path}: ${reason}`, { operation: 'listen', cause });
}
