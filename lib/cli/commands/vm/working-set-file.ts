import { readFile, stat } from 'node:fs/promises';
import { QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import type { PageSource } from '../../../migration/page-source/page-source.ts';
import {
  decodeWorkingSet,
  encodeWorkingSet,
  MAX_WORKING_SET_BYTES,
  type PageRange,
} from '../../../vm/index.ts';
import { printStderr } from '../../shell/stdio.ts';
import { writeWholeFile } from '../../shell/write-file.ts';

/**
 * Read the pages to send first. A file that does not fit the guest is reported and not used.
 *
 * @param path - The file.
 * @param record - The file that the pages of this restore go to; if it is the same one, it need not exist yet.
 * @throws {QemuFileError} (rejects) if the file cannot be read.
 */
export async function readWorkingSet(
  path: string,
  record: string | undefined,
  pages: PageSource,
): Promise<PageRange[]> {
  let text: string;
  try {
    const { size } = await stat(path);
    if (size > MAX_WORKING_SET_BYTES) {
      const reason = `${path} has ${size} bytes, more than a working set`;
      throw new QemuFileError('EFBIG', reason, { operation: 'prefetch' });
    }
    text = await readFile(path, 'utf8');
  } catch (error) {
    const failure = toQemuFileError(error, { operation: 'prefetch' });
    if (failure.code === 'ENOENT' && path === record) return [];
    throw failure;
  }
  const set = decodeWorkingSet(text, pages);
  if (typeof set !== 'string') return set;
  await printStderr(`${path} is not used: ${set}`);
  return [];
}

/** Write the pages that were asked for; return false after a failure, which was printed. */
export async function writeWorkingSet(
  path: string,
  set: readonly PageRange[],
  pages: PageSource,
): Promise<boolean> {
  try {
    await writeWholeFile(path, encodeWorkingSet(set, pages));
    return true;
  } catch (error) {
    const { message } = error as Error;
    await printStderr(`the guest is restored, but its working set (${path}) is not: ${message}`);
    return false;
  }
}
