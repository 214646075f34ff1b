import { hash } from 'node:crypto';
import { FINGERPRINT_BYTES } from './limits.ts';

/**
 * Write the fingerprint of each page of a buffer to another one: the first half of its SHA-256.
 *
 * @param pages - Pages, one after the other.
 * @param count - Number of pages.
 * @param fingerprints - Filled with the fingerprints of the pages, one after the other.
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
    const digest = hash('sha256', bytes, 'binary');
    fingerprints.write(digest, page * FINGERPRINT_BYTES, FINGERPRINT_BYTES, 'latin1');
  }
}
