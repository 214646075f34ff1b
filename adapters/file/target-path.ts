import fs from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { QemuFileError } from '../../lib/contract/errors.ts';

/** Greatest number of symbolic links that are followed. @see Linux `MAXSYMLINKS` */
const MAX_LINKS = 40;

/** The file that writing to a path creates or replaces. */
export interface TargetPath {
  /** An absolute path without symbolic links; for anything other than a regular file, the path as given. */
  path: string;
  /** The file that exists there; absent if the path does not exist. */
  stats?: fs.Stats;
}

/**
 * Find the file that writing to a path creates or replaces. Symbolic links are followed, even one whose target
 * does not exist: a writer then creates the target, as open(2) with `O_CREAT` does, and the link stays.
 *
 * @param path - As the caller gave it.
 * @throws {QemuFileError} (rejects) `ELOOP` more than 40 links; `ENOENT` an empty path; `EISDIR` a path that
 *   ends in a slash and leads to nothing. Errors of the system, such as `EACCES`, reject as they are.
 */
export async function findTarget(path: string): Promise<TargetPath> {
  let at = path;
  for (let links = 0; links < MAX_LINKS; links++) {
    try {
      const stats = await fs.promises.stat(at);
      return { path: stats.isFile() ? await fs.promises.realpath(at) : at, stats };
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENOENT') throw error;
    }
    // The path leads to nothing, but it may be a link.
    const directory = await fs.promises.realpath(dirname(at));
    const link = await fs.promises.readlink(at).catch(() => undefined);
    if (link === undefined) {
      if (at === '') throw openError('ENOENT', 'the path is empty');
      if (at.endsWith('/')) throw openError('EISDIR', `${at} can only be a directory`);
      return { path: join(directory, basename(at)) };
    }
    at = resolve(directory, link);
  }
  throw openError('ELOOP', `${path} leads through more than ${MAX_LINKS} symbolic links`);
}

function openError(code: string, reason: string): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'open' });
}
