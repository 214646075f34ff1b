import { brotliDecompressSync } from 'node:zlib';
import { QemuFileError } from '../../contract/errors.ts';
import { LIMIT } from '../format/wire.ts';
import type { PageSourceBlock } from '../page-source/page-source.ts';
import { EXTENT_BYTES } from '../stream-pages/extent-cache.ts';
import { MAX_PAGES, MAX_RUNS, type PageRuns } from '../stream-pages/page-runs.ts';
import { ByteReader, damaged } from './index-bytes.ts';
import {
  DIGEST_BYTES,
  HEADER_BYTES,
  MAGIC,
  type PageIndex,
  type Place,
  VERSION,
  wholeDigest,
  ZERO_RECORD_BYTES,
} from './page-index.ts';

/** Most bytes of an entry of each table: a name, sizes and an address; two varints; three varints. */
const MAX_ENTRY_BYTES = { block: 281, section: 16, run: 24 } as const;
/** Most bytes of the places of the configuration and the VM description, and whether there are footers. */
const MAX_PLACES_BYTES = 33;
/** Longest configuration section; its longest part is a name of a machine. */
const MAX_CONFIGURATION_BYTES = 65_536;

/**
 * Decode an index, of which nothing is trusted: its sections and runs lie in the stream, the pages in the blocks.
 * `loadDigest` must have finished.
 *
 * @throws {QemuFileError} `EBADMSG` if it is damaged; `ENOTSUP` for another version.
 */
export function decodePageIndex(bytes: Uint8Array): PageIndex {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  if (file.length < HEADER_BYTES + DIGEST_BYTES || !file.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw damaged('it is not an index');
  }
  const version = file.readUInt32BE(16);
  if (version !== VERSION) {
    const reason = `the page index has version ${version}, not ${VERSION}; remove it or make a new one`;
    throw new QemuFileError('ENOTSUP', reason, { operation: 'openSavedGuest' });
  }
  const body = file.subarray(0, -DIGEST_BYTES);
  if (file.readBigUInt64BE(body.length) !== wholeDigest(body)) throw damaged('its digest is wrong');
  const head = new ByteReader(body, 20);
  const pageSize = head.be32();
  const size = head.be64();
  const [blockCount, sectionCount, runCount] = [head.be32(), head.be32(), head.be32()];
  const isPageSize = pageSize >= 256 && pageSize <= 65_536 && (pageSize & (pageSize - 1)) === 0;
  if (!isPageSize) throw damaged('it has no page size');
  if (blockCount > LIMIT.BLOCKS) throw damaged('it has too many blocks');
  if (sectionCount > LIMIT.LISTED) throw damaged('it has too many sections');
  if (runCount > MAX_RUNS) throw damaged('it has too many runs');
  const extents = Math.ceil(size / EXTENT_BYTES);
  const digests = head.be32s(extents);
  const tables = body.subarray(HEADER_BYTES + extents * 4);
  const { block, section, run } = MAX_ENTRY_BYTES;
  const mostBytes = blockCount * block + MAX_PLACES_BYTES + sectionCount * section + runCount * run;
  const input = new ByteReader(decompressTables(tables, mostBytes), 0);
  const blocks = readBlocks(input, blockCount, pageSize);
  const pages = blocks.reduce((sum, { usedLength }) => sum + usedLength / pageSize, 0);
  if (pages > MAX_PAGES) throw damaged('it has too many pages');
  const configuration = readPlace(input, size, MAX_CONFIGURATION_BYTES);
  const description = readPlace(input, size, LIMIT.DESCRIPTION);
  const hasFooters = input.u8() === 1;
  const sections = readSections(input, sectionCount, size);
  const runs = readRuns(input, runCount, { pageSize, pages, size });
  if (!input.isAtEnd) throw damaged('bytes are left over');
  return {
    pageSize,
    size,
    blocks,
    configuration,
    description,
    hasFooters,
    sections,
    runs,
    digests,
  };
}

function readBlocks(input: ByteReader, count: number, pageSize: number): PageSourceBlock[] {
  const blocks: PageSourceBlock[] = [];
  for (let at = 0; at < count; at++) {
    const name = input.text();
    const usedLength = input.be64();
    if (usedLength % pageSize !== 0) throw damaged('a block is not a whole number of pages');
    const hostPageSize = input.varint();
    const address = input.u8() === 1 ? input.be64Big() : null;
    blocks.push({ name, usedLength, hostPageSize: hostPageSize || null, address });
  }
  return blocks;
}

function readPlace(input: ByteReader, size: number, mostBytes: number): Place | null {
  const from = input.varint();
  const bytes = input.varint();
  if (bytes > mostBytes || from + bytes > size) throw damaged('a place is outside of the stream');
  return bytes === 0 ? null : { from, to: from + bytes };
}

function readSections(input: ByteReader, count: number, size: number): Place[] {
  input.expect(count * 2);
  const sections: Place[] = [];
  let end = 0;
  for (let at = 0; at < count; at++) {
    const from = end + input.varint();
    const to = from + input.varint();
    if (to > size || to === from) throw damaged('a section is outside of the stream');
    sections.push({ from, to });
    end = to;
  }
  return sections;
}

function readRuns(
  input: ByteReader,
  length: number,
  limits: { pageSize: number; pages: number; size: number },
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
  for (let at = 0; at < length; at++) {
    const skipped = input.varint();
    page += skipped;
    const count = input.varint();
    const zigzag = input.varint();
    position += skipped * ZERO_RECORD_BYTES;
    position += zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2;
    const end = position + (count - 1) * stride + limits.pageSize;
    if (count === 0 || page + count > limits.pages) throw damaged('a run is outside of the blocks');
    // The word before the first page belongs to it.
    if (position < 8 || end > limits.size) throw damaged('a run is outside of the stream');
    runs.pages[at] = page;
    runs.counts[at] = count;
    runs.positions[at] = position;
    page += count;
    position += count * stride;
  }
  return runs;
}

function decompressTables(bytes: Buffer, maxOutputLength: number): Buffer {
  try {
    return brotliDecompressSync(bytes, { maxOutputLength });
  } catch {
    throw damaged('its tables cannot be decompressed');
  }
}
