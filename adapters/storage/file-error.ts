import type { BigIntStats, Stats } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';
import { QemuFileError } from '../../lib/contract/errors.ts';

/** Reasons that are clearer than the system's own. */
const REASONS: Readonly<Record<string, string>> = {
  EEXIST: 'the object exists already',
  EIO: 'the disk or the server failed to read or write (input/output error); look at the kernel log',
  ELOOP: 'a symbolic link, which is not followed',
  ENOENT: 'there is no such object or directory',
  ENOTDIR: 'a file is in the place of a directory',
};

/** For codes of the system that `ObjectStorage` does not use, its codes with the same meaning. */
const CODES: Readonly<Record<string, string>> = {
  EDQUOT: 'ENOSPC',
  EISDIR: 'EIO',
  ELOOP: 'EIO',
  ENOTDIR: 'ENOENT',
  EPERM: 'EACCES',
  EROFS: 'EACCES',
};

/**
 * Convert an error of `node:fs` to one that names an object instead of its temporary file.
 *
 * @param error - Any value that was thrown; a `QemuFileError` is returned as it is.
 * @param operation - Of the storage.
 * @param path - Of the object.
 */
export function fileError(error: unknown, operation: string, path: string): QemuFileError {
  if (error instanceof QemuFileError) return error;
  const { code, errno } = error as { code?: unknown; errno?: unknown };
  const known = typeof code === 'string' && code in constants.errno ? code : 'EIO';
  const [, text] = (typeof errno === 'number' ? getSystemErrorMap().get(errno) : undefined) ?? [];
  const said = REASONS[known] ?? text ?? (error instanceof Error ? error.message : String(error));
  return new QemuFileError(CODES[known] ?? known, `${path}: ${said}`, { operation, cause: error });
}

/** Return the error for something in the place of an object or of a directory of objects. */
export function notAnObject(
  path: string,
  stats: Stats | BigIntStats,
  operation: string,
): QemuFileError {
  const kind = stats.isSymbolicLink()
    ? 'a symbolic link, which is not followed'
    : stats.isDirectory()
      ? 'a directory, not an object'
      : stats.isFile()
        ? 'a file in the place of a directory'
        : 'a device, a FIFO or a socket, not an object';
  return new QemuFileError(stats.isDirectory() ? 'ENOENT' : 'EIO', `${path}: ${kind}`, {
    operation,
  });
}

/** Return whether an error of `node:fs` has a code. */
export function hasCode(error: unknown, code: string): boolean {
  return (error as { code?: unknown } | null | undefined)?.code === code;
}
