import { open } from 'node:fs/promises';
import type { Uri } from '../../../adapters/uri.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { PAGE_INDEX_SUFFIX } from '../../migration/page-index/page-index.ts';

/** Longest index: of a stream of some TiB. */
const MAX_INDEX_BYTES = 268_435_456;

/**
 * Read the page index beside a stream.
 *
 * @param uri - The endpoint of the stream.
 * @returns The index; undefined if there is none.
 * @throws {QemuFileError} (rejects) `EFBIG` for an index that is too long; the error of the file.
 */
export async function readPageIndex(uri: Uri): Promise<Uint8Array | undefined> {
  if (uri.scheme !== 'file') return undefined;
  const path = uri.path + PAGE_INDEX_SUFFIX;
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    if (size > MAX_INDEX_BYTES) {
      const reason = `${path} has ${size} bytes, at most ${MAX_INDEX_BYTES} are read: remove it`;
      throw new QemuFileError('EFBIG', reason, { operation: 'readPageIndex' });
    }
    return await file.readFile();
  } catch (error) {
    const failure = toQemuFileError(error, { operation: 'readPageIndex' });
    if (failure.code === 'ENOENT') return undefined;
    throw failure;
  }
}
