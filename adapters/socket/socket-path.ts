import { QemuFileError } from '../../lib/contract/errors.ts';

/**
 * Greatest length of a unix socket's path, in bytes: `sun_path` of `struct sockaddr_un` less its NUL, which
 * has 108 bytes on Linux and 104 on macOS and the BSDs. Node may truncate longer paths without an error.
 */
export const MAX_SOCKET_PATH_BYTES: number = process.platform === 'linux' ? 107 : 103;

/** Return whether a path is short enough for a unix socket. */
export function fitsSocketPath(path: string): boolean {
  return Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES;
}

/** Return the reason why a path is too long, as a clause. */
export function socketPathLimit(path: string): string {
  return (
    `the path has ${Buffer.byteLength(path)} bytes, and a unix socket's has ` +
    `${MAX_SOCKET_PATH_BYTES} at most: use a shorter one`
  );
}

/**
 * Check the length of a unix socket's path.
 *
 * @param operation - Public name of the operation, for the error.
 * @throws {QemuFileError} `ENAMETOOLONG`.
 */
export function checkSocketPath(path: string, operation: string): void {
  if (fitsSocketPath(path)) return;
  throw new QemuFileError('ENAMETOOLONG', `unix:${path}: ${socketPathLimit(path)}`, { operation });
}
