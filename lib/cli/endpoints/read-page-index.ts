import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
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
 * @throws {QemuFileError} `EFBIG` for an index that is too long; the error of the file.
 */
export function readPageIndex(uri: Uri): Uint8Array | undefined {
  if (uri.scheme !== 'file') return undefined;
  const path = uri.path + PAGE_INDEX_SUFFIX;
  try {
    // A guest waits, and the thread pool would take a millisecond for each call.
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const { size } = fstatSync(fd);
      if (size > MAX_INDEX_BYTES) {
        const reason = `${path} has ${size} bytes, at most ${MAX_INDEX_BYTES} are read: remove it`;
        throw new QemuFileError('EFBIG', reason, { operation: 'readPageIndex' });
      }
      return readFileSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    const failure = toQemuFileError(error, { operation: 'readPageIndex' });
    if (failure.code === 'ENOENT') return undefined;
    throw failure;
  }
}
