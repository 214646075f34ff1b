import type { PageSource } from '../../migration/memory/page-source.ts';
import type { PageRange } from './page-server-types.ts';

/** Encode a working set for a file. */
export function encodeWorkingSet(set: readonly PageRange[], source: PageSource): Uint8Array {
  void set;
  void source;
  throw new Error('not implemented');
}

/**
 * Decode a working set of a file.
 *
 * @param bytes - The file's contents, of which nothing is trusted.
 * @returns The set; or, if it does not fit the blocks of `source`, the reason as a clause.
 */
export function decodeWorkingSet(
  bytes: Uint8Array,
  source: PageSource,
): readonly PageRange[] | string {
  void bytes;
  void source;
  return 'not implemented';
}
