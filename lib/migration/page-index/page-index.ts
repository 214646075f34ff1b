import { Digest } from '../../util/digest.ts';
import type { PageSourceBlock } from '../page-source/page-source.ts';
import type { PageRuns } from '../stream-pages/page-runs.ts';

/*
 * The index of a sequential stream, in a file beside it. All integers are big-endian; a varint has 7 bits in each
 * byte, the lowest first, and bit 7 set in all bytes but the last.
 *
 *   16 bytes "qemu-file index\n"   be32 version   be32 page size   be64 bytes of the stream
 *   be32 blocks   be32 sections   be32 runs
 *   be32 × extents   lower half of the XXH64 of each 256 KiB of the stream
 *   the tables, compressed with Brotli:
 *   blocks           u8 length, name, be64 bytes in use, varint bytes of the host's pages (0: the stream does not say),
 *                    u8 1 and be64 guest-physical address, or u8 0 (the stream does not say)
 *   configuration    varint position, varint bytes (0: there is none)
 *   VM description   varint position, varint bytes (0: there is none)
 *   footers          u8 1 if sections have footers, else 0
 *   sections         all but the parts of `ram` with pages: varint distance from the end of the section before,
 *                    varint bytes without the footer
 *   runs             varint pages since the end of the run before, varint pages,
 *                    varint zigzag of the distance in the stream from where the run is expected: after the end of
 *                    the run before and a record of zeros for each page between them
 *   be64             XXH64 of all bytes before
 *
 * XXH64 finds damage, not forgery: a program that can change the file can change its index as well. With half of
 * each XXH64 the index is half as large, and misses the damage of an extent once in four billion.
 */

/** End of the name of an index, after the name of the stream's file. */
export const PAGE_INDEX_SUFFIX = '.qemu-file-index';

/** First bytes of an index. */
export const MAGIC: Buffer = Buffer.from('qemu-file index\n');
export const VERSION = 3;
/** Bytes before the digests of the extents. */
export const HEADER_BYTES = 44;
/** Bytes of the record of a page of zeros. */
export const ZERO_RECORD_BYTES = 9;
/** Bytes of the digest of the index itself. */
export const DIGEST_BYTES = 8;

/** A part of a stream. */
export interface Place {
  readonly from: number;
  readonly to: number;
}

/** The contents of an index. */
export interface PageIndex {
  readonly pageSize: number;
  /** Bytes of the stream. */
  readonly size: number;
  readonly blocks: readonly PageSourceBlock[];
  /** The configuration section, from its type; null if there is none. */
  readonly configuration: Place | null;
  /** The VM description, from its type; null if there is none. */
  readonly description: Place | null;
  /** Whether sections have footers. */
  readonly hasFooters: boolean;
  /** The sections but those with pages, each from its type to its footer or end; in ascending order. */
  readonly sections: readonly Place[];
  readonly runs: PageRuns;
  /** Lower half of the XXH64 of each extent. */
  readonly digests: Uint32Array;
}

/** Return the lower half of the XXH64 of an extent. `loadDigest` must have finished. */
export function extentDigest(bytes: Uint8Array): number {
  const digest = new Digest();
  digest.update(bytes);
  return lowerHalf(digest);
}

/** Return the lower half of a digest. */
export function lowerHalf(digest: Digest): number {
  return Number.parseInt(digest.hex().slice(8), 16);
}

/** Return the XXH64 of an index without its digest. `loadDigest` must have finished. */
export function wholeDigest(bytes: Uint8Array): bigint {
  const digest = new Digest();
  digest.update(bytes);
  return BigInt(`0x${digest.hex()}`);
}
