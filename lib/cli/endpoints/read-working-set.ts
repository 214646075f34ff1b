import { readFile, stat } from 'node:fs/promises';
import { isStoreUrl } from '../../../adapters/storage/store-url.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import {
  encodeWorkingSet,
  MAX_WORKING_SET_BYTES,
} from '../../migration/page-source/working-set.ts';
import { printStderr } from '../shell/stdio.ts';
import { parseSnapshotUrl } from './snapshot-url.ts';

/**
 * Read a working set.
 *
 * @param from - A file, or a snapshot with which one is kept.
 * @returns The text of the set; undefined if none is kept with the snapshot, or it is damaged, which is reported.
 * @throws {QemuFileError} (rejects) the error of the file or of the store; `EFBIG` for a file that is larger than a set.
 */
export async function readWorkingSetText(
  from: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  if (!isStoreUrl(from)) return readWorkingSetFile(from);
  const url = parseSnapshotUrl(from);
  const { openStore } = await import('../../snapshot/open-store.ts');
  const store = await openStore(url);
  try {
    const guest = await store.reader(url.snapshot, { workingSet: true, signal });
    for (const warning of guest.warnings) await printStderr(warning);
    const { workingSet, pages } = guest;
    return workingSet.length === 0 ? undefined : encodeWorkingSet(workingSet, pages);
  } finally {
    await store.close();
  }
}

/** Read the file of a working set. */
export async function readWorkingSetFile(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > MAX_WORKING_SET_BYTES) {
      const reason = `${path} has ${size} bytes, more than a working set`;
      throw new QemuFileError('EFBIG', reason, { operation: 'prefetch' });
    }
    return await readFile(path, 'utf8');
  } catch (error) {
    throw toQemuFileError(error, { operation: 'prefetch' });
  }
}
