import { toQemuFileError } from '../../../contract/errors.ts';
import type { PageRange, PageSource } from '../../../migration/page-source/page-source.ts';
import { decodeWorkingSet, encodeWorkingSet } from '../../../migration/page-source/working-set.ts';
import type { SnapshotReader } from '../../../snapshot/read/snapshot-reader.ts';
import { readWorkingSetFile } from '../../endpoints/read-working-set.ts';
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
    text = await readWorkingSetFile(path);
  } catch (error) {
    if (toQemuFileError(error).code === 'ENOENT' && path === record) return [];
    throw error;
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

/** Keep the pages that were asked for with a snapshot; return false after a failure, which was printed. */
export async function keepWorkingSet(
  snapshot: SnapshotReader,
  set: readonly PageRange[],
): Promise<boolean> {
  try {
    await snapshot.keepWorkingSet(set);
    return true;
  } catch (error) {
    const { reason } = toQemuFileError(error);
    await printStderr(`the guest is restored, but its working set is not kept: ${reason}`);
    return false;
  }
}
