import { brotliCompressSync, brotliDecompressSync, constants } from 'node:zlib';
import { QemuFileError } from '../../contract/errors.ts';
import { Digest } from '../../util/digest.ts';
import { LIMIT } from '../format/wire.ts';
import { EXTENT_BYTES } from '../saved-guest/extent-cache.ts';
import { MAX_PAGES, MAX_RUNS, type PageRuns } from '../saved-guest/page-runs.ts';
import { ByteReader, ByteWriter, damaged } from './index-bytes.ts';

/*
 * The index of a sequential stream, in a file beside it. All integers are big-endian; a varint has 7 bits in each
 * byte, the lowest first, and bit 7 set in all bytes but the last.
 *
 *   16 bytes "qemu-file index\n"   be32 version   be32 page size   be64 bytes of the stream
 *   be32 blocks   be32 gaps   be32 runs
 *   be32 × extents   lower half of the XXH64 of each 256 KiB of the stream
 *   the tables, compressed with Brotli; not compressed in version 1:
 *   blocks           u8 length, name, be64 bytes in use
 *   gaps             varint distance from the end of the gap before, varint length: parts that only hold pages
 *   runs             varint pages since the end of the run before, varint pages,
 *                    varint zigzag of the distance in the stream from where the run is expected: after the end of
 *                    the run before and a record of zeros for each page between them
 *   be64             XXH64 of all bytes before
 *
 * XXH64 is there to find damage, not forgery: who can change the file can change its index as well. Half of it
 * halves the index and leaves one chance in four billions to miss damage of an extent.
 */

/** What the name of an index has after the name of its stream. */
export const PAGE_INDEX_SUFFIX = '.qemu-file-index';

const MAGIC = Buffer.from('qemu-file index\n');
const VERSION = 2;
/** The version whose tables are not compressed. */
const PLAIN_VERSION = 1;
const HEADER_BYTES = 44;
/** Bytes of the record of a page of zeros. */
const ZERO_RECORD_BYTES = 9;
const DIGEST_BYTES = 8;
/** Most bytes of an entry of each table: a name and a size; two varints; three varints. */
const MAX_ENTRY_BYTES = { block: 264, gap: 16, run: 24 } as const;
/** Up to here the tables are compressed as well as possible: at about 1 MB/s, and by 10 % better than fast. */
const MAX_SLOW_BYTES = 262_144;
const FAST_QUALITY = 5;

/** A part of a stream that holds only RAM records. */
export interface Gap {
  readonly from: number;
  readonly to: number;
}

/** What an index says about its stream. */
export interface PageIndex {
  readonly pageSize: number;
  /** Bytes of the stream. */
  readonly size: number;
  readonly blocks: readonly { readonly name: string; readonly usedLength: number }[];
  /** In ascending order. */
  readonly gaps: readonly Gap[];
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

function wholeDigest(bytes: Uint8Array): bigint {
  const digest = new Digest();
  digest.update(bytes);
  return BigInt(`0x${digest.hex()}`);
}

/** Encode an index. `loadDigest` must have finished. */
export function encodePageIndex(index: PageIndex): Uint8Array {
  const { pageSize, size, blocks, gaps, runs, digests } = index;
  const out = new ByteWriter();
  out.bytes(MAGIC);
  out.be32(VERSION);
  out.be32(pageSize);
  out.be64(BigInt(size));
  out.be32(blocks.length);
  out.be32(gaps.length);
  out.be32(runs.length);
  for (const digest of digests) out.be32(digest);
  out.bytes(compressTables(encodeTables({ blocks, gaps, runs })));
  const body = out.finish();
  const trailer = Buffer.alloc(DIGEST_BYTES);
  trailer.writeBigUInt64BE(wholeDigest(body));
  return Buffer.concat([body, trailer]);
}

function encodeTables({ blocks, gaps, runs }: Pick<PageIndex, 'blocks' | 'gaps' | 'runs'>): Buffer {
  const out = new ByteWriter();
  for (const { name, usedLength } of blocks) {
    const bytes = Buffer.from(name);
    out.bytes(Buffer.of(bytes.length));
    out.bytes(bytes);
    out.be64(BigInt(usedLength));
  }
  let end = 0;
  for (const { from, to } of gaps) {
    out.varint(from - end);
    out.varint(to - from);
    end = to;
  }
  let page = 0;
  let position = 0;
  for (let at = 0; at < runs.length; at++) {
    const count = runs.counts[at] as number;
    const start = runs.positions[at] as number;
    const skipped = (runs.pages[at] as number) - page;
    out.varint(skipped);
    out.varint(count);
    const distance = start - position - skipped * ZERO_RECORD_BYTES;
    out.varint(distance >= 0 ? distance * 2 : -distance * 2 - 1);
    page = (runs.pages[at] as number) + count;
    position = start + count * runs.stride;
  }
  return out.finish();
}

function compressTables(tables: Buffer): Buffer {
  const quality = tables.length > MAX_SLOW_BYTES ? FAST_QUALITY : constants.BROTLI_MAX_QUALITY;
  return brotliCompressSync(tables, {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: quality,
      [constants.BROTLI_PARAM_SIZE_HINT]: tables.length,
    },
  });
}

function decompressTables(bytes: Buffer, maxOutputLength: number): Buffer {
  try {
    return brotliDecompressSync(bytes, { maxOutputLength });
  } catch {
    throw damaged('its tables cannot be decompressed');
  }
}

/**
 * Decode an index, of which nothing is trusted: its runs lie in its gaps, the gaps in the stream, the pages in the
 * blocks. `loadDigest` must have finished.
 *
 * @throws {QemuFileError} `EBADMSG` if it is damaged; `ENOTSUP` for another version.
 */
export function decodePageIndex(bytes: Uint8Array): PageIndex {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  if (file.length < HEADER_BYTES + DIGEST_BYTES || !file.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw damaged('it is not an index');
  }
  const version = file.readUInt32BE(16);
  if (version !== VERSION && version !== PLAIN_VERSION) {
    const reason = `the page index has version ${version}, not ${VERSION}; make a new one`;
    throw new QemuFileError('ENOTSUP', reason, { operation: 'openSavedGuest' });
  }
  const body = file.subarray(0, -DIGEST_BYTES);
  if (file.readBigUInt64BE(body.length) !== wholeDigest(body)) throw damaged('its digest is wrong');
  const head = new ByteReader(body, 20);
  const pageSize = head.be32();
  const size = head.be64();
  const [blockCount, gapCount, runCount] = [head.be32(), head.be32(), head.be32()];
  const isPageSize = pageSize >= 256 && pageSize <= 65_536 && (pageSize & (pageSize - 1)) === 0;
  if (!isPageSize) throw damaged('it has no page size');
  if (blockCount > LIMIT.BLOCKS) throw damaged('it has too many blocks');
  if (runCount > MAX_RUNS || gapCount > MAX_RUNS) throw damaged('it has too many runs');
  const extents = Math.ceil(size / EXTENT_BYTES);
  head.expect(extents * 4);
  const digests = new Uint32Array(extents);
  for (let at = 0; at < extents; at++) digests[at] = head.be32();
  const tables = body.subarray(HEADER_BYTES + extents * 4);
  const { block, gap, run } = MAX_ENTRY_BYTES;
  const mostBytes = blockCount * block + gapCount * gap + runCount * run;
  const input = new ByteReader(
    version === PLAIN_VERSION ? tables : decompressTables(tables, mostBytes),
    0,
  );
  const blocks: { name: string; usedLength: number }[] = [];
  let pages = 0;
  for (let at = 0; at < blockCount; at++) {
    const name = input.text();
    const usedLength = input.be64();
    if (usedLength % pageSize !== 0) throw damaged('a block is not a whole number of pages');
    pages += usedLength / pageSize;
    blocks.push({ name, usedLength });
  }
  if (pages > MAX_PAGES) throw damaged('it has too many pages');
  const gaps = readGaps(input, gapCount, size);
  const runs = readRuns(input, runCount, { pageSize, pages, gaps });
  if (!input.isAtEnd) throw damaged('bytes are left over');
  return { pageSize, size, blocks, gaps, runs, digests };
}

function readGaps(input: ByteReader, count: number, size: number): Gap[] {
  input.expect(count * 2);
  const gaps: Gap[] = [];
  let end = 0;
  for (let at = 0; at < count; at++) {
    const from = end + input.varint();
    const to = from + input.varint();
    if (to > size || to === from) throw damaged('a gap is outside of the stream');
    gaps.push({ from, to });
    end = to;
  }
  return gaps;
}

function readRuns(
  input: ByteReader,
  length: number,
  limits: { pageSize: number; pages: number; gaps: readonly Gap[] },
): PageRuns {
  const stride = limits.pageSize + 8;
  input.expect(length * 3);
  const runs: PageRuns = {
    length,
    pages: new Float64Array(length),
    counts: new Uint32Array(length),
    positions: new Float64Array(length),
    stride,
  };
  let page = 0;
  let position = 0;
  let gap: Gap | undefined;
  for (let at = 0; at < length; at++) {
    const skipped = input.varint();
    page += skipped;
    const count = input.varint();
    const zigzag = input.varint();
    position += skipped * ZERO_RECORD_BYTES;
    position += zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2;
    const end = position + (count - 1) * stride + limits.pageSize;
    if (count === 0 || page + count > limits.pages) throw damaged('a run is outside of the blocks');
    if (gap === undefined || position < gap.from || position >= gap.to) {
      gap = gapAt(limits.gaps, position);
    }
    // The word before the first page belongs to it.
    if (gap === undefined || position - 8 < gap.from || end > gap.to) {
      throw damaged('a run is outside of the gaps');
    }
    runs.pages[at] = page;
    runs.counts[at] = count;
    runs.positions[at] = position;
    page += count;
    position += count * stride;
  }
  return runs;
}

/** Return the gap around a position. */
function gapAt(gaps: readonly Gap[], position: number): Gap | undefined {
  let low = 0;
  let high = gaps.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((gaps[middle] as Gap).from <= position) low = middle + 1;
    else high = middle;
  }
  const gap = gaps[low - 1];
  return gap !== undefined && position < gap.to ? gap : undefined;
}
