import { chmod, lstat, unlink } from 'node:fs/promises';
import net from 'node:net';
import { dirname } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { checkSocketPath, describeTarget, type SocketTarget } from './connect.ts';
import { networkError } from './network-error.ts';

/** Who but the owner may do what with a unix socket: nothing; and nobody may execute it. */
const SOCKET_UMASK = 0o177;
const SOCKET_MODE = 0o600;

/**
 * Makes a server listen, by the rules of `listenSocket`.
 *
 * @returns The address it got.
 */
export async function startListening(
  server: net.Server,
  target: SocketTarget,
  backlog: number,
): Promise<SocketTarget> {
  if ('path' in target) {
    await listenAtPath(server, target, backlog);
    return { path: target.path };
  }
  // Listening to everybody must be asked for: a migration stream holds all of a guest's memory.
  const host = target.host === '' ? '127.0.0.1' : target.host;
  await listening(server, target, () =>
    server.listen({ host, port: target.port, backlog, exclusive: true }),
  );
  const { address, port } = server.address() as net.AddressInfo;
  return { host: address, port };
}

async function listenAtPath(
  server: net.Server,
  target: { path: string },
  backlog: number,
): Promise<void> {
  const { path } = target;
  checkSocketPath(path, 'listen');
  const listen = () => listening(server, target, () => bindPrivately(server, path, backlog));
  try {
    await listen();
  } catch (error) {
    const { code } = error as QemuFileError;
    // libuv reports a directory that is missing as one that is closed to us.
    if (code === 'EACCES') await checkDirectory(path);
    if (code !== 'EADDRINUSE' || !(await isLeftOver(path))) throw error;
    await unlink(path);
    await listen();
  }
  // Worker threads have no umask of their own to set.
  if (!isMainThread) await chmod(path, SOCKET_MODE);
}

/** The socket must never be there with a wider mode, so it is made with the right one. */
function bindPrivately(server: net.Server, path: string, backlog: number): void {
  if (!isMainThread) {
    server.listen({ path, backlog, exclusive: true });
    return;
  }
  const umask = process.umask(SOCKET_UMASK);
  try {
    server.listen({ path, backlog, exclusive: true });
  } finally {
    process.umask(umask);
  }
}

async function checkDirectory(path: string): Promise<void> {
  try {
    await lstat(dirname(path));
  } catch (error) {
    throw toQemuFileError(error, { operation: 'listen' });
  }
}

/** Says whether a path is that of a socket which nobody listens on any more. */
async function isLeftOver(path: string): Promise<boolean> {
  const stat = await lstat(path);
  if (!stat.isSocket()) {
    throw new QemuFileError('EEXIST', `unix:${path}: this is something other than a socket`, {
      operation: 'listen',
    });
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

function listening(server: net.Server, target: SocketTarget, start: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const onListening = () => {
      server.off('error', onError);
      resolve();
    };
    const onError = (error: Error) => {
      server.off('listening', onListening);
      reject(networkError(error, 'listen', describeTarget(target)));
    };
    server.once('listening', onListening);
    server.once('error', onError);
    try {
      start();
    } catch (error) {
      // Only what Node finds wrong with the target itself is thrown.
      server.off('listening', onListening);
      server.off('error', onError);
      reject(
        new QemuFileError('EINVAL', `not a place to listen: ${describeTarget(target)}`, {
          operation: 'listen',
          cause: error,
        }),
      );
    }
  });
}
