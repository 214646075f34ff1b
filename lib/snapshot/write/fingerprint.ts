import { hash } from 'node:crypto';
import { DIGEST_BYTES } from '../format/limits.ts';

/**
 * Write the SHA-256 of each page of a buffer to another one.
 *
 * @param pages - Pages, one after the other.
 * @param count - Number of pages.
 * @param fingerprints - Filled with the SHA-256 of the pages, one after the other.
 */
export function fingerprintPages(
  pages: Buffer,
  count: number,
  pageSize: number,
  fingerprints: Buffer,
): void {
  for (let page = 0; page < count; page++) {
    const bytes = pages.subarray(page * pageSize, (page + 1) * pageSize);
    // Text is faster than a buffer: nothing is allocated outside of the heap.
    fingerprints.write(hash('sha256', bytes, 'binary'), page * DIGEST_BYTES, 'latin1');
  }
}
