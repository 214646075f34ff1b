import { LIMIT } from '../../migration/format/wire.ts';
import type { PageSourceBlock } from '../../migration/page-source/page-source.ts';
import type { SavedSection } from '../../migration/saved-guest/saved-guest.ts';
import { damaged } from './damage.ts';
import { sha256Hex } from './digest.ts';
import { ByteReader } from './encoding/byte-reader.ts';
import { ByteWriter } from './encoding/byte-writer.ts';
import { compress, decompress, isCodec } from './encoding/compression.ts';
import { mapKey } from './keys.ts';
import {
  DIGEST_BYTES,
  isPageSize,
  MAX_MAP_BYTES,
  MAX_PACK_BYTES,
  MAX_PACKS,
  MAX_STORED_PAGES,
  STORE_VERSION,
} from './limits.ts';
import { type PageRuns, PageRunsBuilder } from './page-runs.ts';

/*
 *   map = magic, version, codec, length, body (compressed as the codec says)
 *   body = everything of the guest but its memory, blocks, packs, runs
 *
 * A map is complete: no other map is needed to read the snapshot.
 */

const MAGIC = Buffer.from('QFILEMAP');
const HEADER_BYTES: number = MAGIC.length + 4 + 1 + 4;
const KINDS = ['start', 'part', 'end', 'full'] as const;
const MAX_NAME_BYTES = 255;

/** Most pages of all blocks. */
const MAX_PAGES = 4_294_967_295;

/** A pack that a map names. */
export interface MapPack {
  /** Name of the pack. */
  readonly digest: string;
  /** Bytes of the whole pack. */
  readonly bytes: number;
  readonly pages: number;
  readonly frames: number;
  /** Bytes of a page; that of the map. */
  readonly pageSize: number;
}

/** Everything that belongs to a snapshot. */
export interface SnapshotMap {
  /** The configuration section as it was sent; null if there is none. */
  readonly configurationBytes: Uint8Array | null;
  readonly hasFooters: boolean;
  readonly ram: {
    readonly sectionId: number;
    readonly instanceId: number;
    readonly versionId: number;
  };
  /** Number of the first sections that come before `ram`. */
  readonly sectionsBeforeRam: number;
  readonly sections: readonly SavedSection[];
  readonly descriptionText: Uint8Array | null;
  readonly pageSize: number;
  readonly blocks: readonly PageSourceBlock[];
  readonly packs: readonly MapPack[];
  readonly runs: PageRuns;
}

/** Return the bytes of a map. */
export async function encodeMap(map: SnapshotMap): Promise<Buffer> {
  const writer = new ByteWriter();
  writeOptional(writer, map.configurationBytes);
  writer.u8(map.hasFooters ? 1 : 0);
  writer.u32(map.ram.sectionId);
  writer.u32(map.ram.instanceId);
  writer.u32(map.ram.versionId);
  writer.varint(map.sectionsBeforeRam);
  writer.varint(map.sections.length);
  for (const { kind, sectionId, name, instanceId, versionId, body } of map.sections) {
    writer.u8(KINDS.indexOf(kind));
    writer.u32(sectionId);
    writer.text(name);
    writer.u32(instanceId);
    writer.u32(versionId);
    writer.counted(body);
  }
  writeOptional(writer, map.descriptionText);
  writer.varint(map.pageSize);
  writer.varint(map.blocks.length);
  for (const { name, usedLength, hostPageSize, address } of map.blocks) {
    writer.text(name);
    writer.varint(usedLength);
    writer.varint(hostPageSize ?? 0);
    writer.u8(address === null ? 0 : 1);
    if (address !== null) writer.u64(address);
  }
  writer.varint(map.packs.length);
  for (const { digest, bytes, pages, frames } of map.packs) {
    writer.bytes(Buffer.from(digest, 'hex'));
    writer.varint(bytes);
    writer.varint(pages);
    writer.varint(frames);
  }
  writeRuns(writer, map.runs);
  const body = writer.finish();
  const packed = await compress(body);
  const header = new ByteWriter();
  header.bytes(MAGIC);
  header.u32(STORE_VERSION);
  header.u8(packed.codec);
  header.u32(body.length);
  return Buffer.concat([header.finish(), packed.bytes]);
}

/**
 * Decode a map, after checking it against its name.
 *
 * @throws {QemuFileError} (rejects) `EBADMSG`.
 */
export async function decodeMap(bytes: Uint8Array, digest: string): Promise<SnapshotMap> {
  const fail = (reason: string): Error => damaged(mapKey(digest), reason);
  if (sha256Hex(bytes) !== digest) throw fail('it has another SHA-256 than its name');
  const header = new ByteReader(bytes.subarray(0, HEADER_BYTES), fail);
  if (!header.bytes(MAGIC.length).equals(MAGIC)) throw fail('it does not begin as a map');
  const version = header.u32();
  if (version !== STORE_VERSION) throw fail(`version ${version}, not ${STORE_VERSION}`);
  const codec = header.u8();
  const length = header.u32();
  if (!isCodec(codec)) throw fail(`codec ${codec}`);
  if (length > MAX_MAP_BYTES) throw fail(`${length} bytes, at most ${MAX_MAP_BYTES}`);
  let body: Uint8Array;
  try {
    body = await decompress({ codec, bytes: bytes.subarray(HEADER_BYTES) }, length);
  } catch (error) {
    throw fail(`it does not decompress: ${(error as Error).message}`);
  }
  return readBody(new ByteReader(body, fail), fail);
}

function readBody(reader: ByteReader, fail: (reason: string) => Error): SnapshotMap {
  const configurationBytes = readOptional(reader);
  const hasFooters = reader.flag();
  const ram = { sectionId: reader.u32(), instanceId: reader.u32(), versionId: reader.u32() };
  const sectionsBeforeRam = reader.varint();
  const sections = readSections(reader, fail);
  if (sectionsBeforeRam > sections.length) {
    throw fail(`${sectionsBeforeRam} of ${sections.length} sections before RAM`);
  }
  const descriptionText = readOptional(reader);
  const pageSize = reader.varint();
  if (!isPageSize(pageSize)) throw fail(`pages of ${pageSize} bytes`);
  const blocks = readBlocks(reader, pageSize, fail);
  const packs = readPacks(reader, pageSize, fail);
  const pages = blocks.reduce((sum, { usedLength }) => sum + usedLength / pageSize, 0);
  const stored = packs.reduce((sum, pack) => sum + pack.pages, 0);
  if (pages > MAX_PAGES || stored > MAX_STORED_PAGES) {
    throw fail(`${pages} pages, of which ${stored} are stored`);
  }
  const runs = readRuns(reader, pages, stored, fail);
  if (reader.left > 0) throw fail(`${reader.left} bytes follow its end`);
  return {
    configurationBytes,
    hasFooters,
    ram,
    sectionsBeforeRam,
    sections,
    descriptionText,
    pageSize,
    blocks,
    packs,
    runs,
  };
}

function readSections(reader: ByteReader, fail: (reason: string) => Error): SavedSection[] {
  const count = reader.varintUpTo(LIMIT.LISTED, 'a number of sections');
  const sections: SavedSection[] = [];
  while (sections.length < count) {
    const kind = KINDS[reader.u8()];
    if (kind === undefined) throw fail('a section of an unknown kind');
    const sectionId = reader.u32();
    const name = reader.text(MAX_NAME_BYTES, "a section's name");
    const instanceId = reader.u32();
    const versionId = reader.u32();
    sections.push({ kind, sectionId, name, instanceId, versionId, body: reader.counted() });
  }
  return sections;
}

function readBlocks(
  reader: ByteReader,
  pageSize: number,
  fail: (reason: string) => Error,
): PageSourceBlock[] {
  const count = reader.varintUpTo(LIMIT.BLOCKS, 'a number of RAM blocks');
  const blocks: PageSourceBlock[] = [];
  const names = new Set<string>();
  let left = LIMIT.RAM;
  while (blocks.length < count) {
    const name = reader.text(MAX_NAME_BYTES, "a RAM block's name");
    const usedLength = reader.varintUpTo(left, 'the length of a RAM block');
    const hostPageSize = reader.varint() || null;
    const address = reader.flag() ? reader.u64() : null;
    if (name === '' || names.has(name)) throw fail('a RAM block without a name of its own');
    if (usedLength % pageSize !== 0) throw fail('a RAM block that does not end with a page');
    names.add(name);
    left -= usedLength;
    blocks.push({ name, usedLength, hostPageSize, address });
  }
  return blocks;
}

function readPacks(
  reader: ByteReader,
  pageSize: number,
  fail: (reason: string) => Error,
): MapPack[] {
  const count = reader.varintUpTo(MAX_PACKS, 'a number of packs');
  const packs: MapPack[] = [];
  while (packs.length < count) {
    const digest = reader.bytes(DIGEST_BYTES).toString('hex');
    const bytes = reader.varintUpTo(MAX_PACK_BYTES, 'the size of a pack');
    const pages = reader.varintUpTo(MAX_STORED_PAGES, 'the pages of a pack');
    const frames = reader.varintUpTo(pages, 'the frames of a pack');
    if (pages === 0 || frames === 0) throw fail('a pack without pages');
    packs.push({ digest, bytes, pages, frames, pageSize });
  }
  return packs;
}

function writeRuns(writer: ByteWriter, { pages, counts, stored, length }: PageRuns): void {
  writer.varint(length);
  let page = 0;
  let next = 0;
  for (let run = 0; run < length; run++) {
    const count = counts[run] as number;
    writer.varint((pages[run] as number) - page);
    writer.varint(count);
    writer.signed((stored[run] as number) - next);
    page = (pages[run] as number) + count;
    next = (stored[run] as number) + count;
  }
}

function readRuns(
  reader: ByteReader,
  pages: number,
  stored: number,
  fail: (reason: string) => Error,
): PageRuns {
  const count = reader.varint();
  // A run has 3 bytes at least.
  if (count > reader.left / 3) throw fail(`${count} runs of pages in ${reader.left} bytes`);
  const runs = new PageRunsBuilder();
  let page = 0;
  let next = 0;
  for (let run = 0; run < count; run++) {
    page += reader.varint();
    const length = reader.varint();
    next += reader.signed();
    if (length === 0 || page + length > pages) {
      throw fail(`${length} pages from page ${page}, of ${pages} pages`);
    }
    if (next < 0 || next + length > stored) {
      throw fail(`${length} stored pages from page ${next}, of ${stored} pages`);
    }
    runs.add(page, length, next);
    page += length;
    next += length;
  }
  return runs.finish();
}

function writeOptional(writer: ByteWriter, bytes: Uint8Array | null): void {
  writer.u8(bytes === null ? 0 : 1);
  if (bytes !== null) writer.counted(bytes);
}

function readOptional(reader: ByteReader): Buffer | null {
  return reader.flag() ? reader.counted() : null;
}
