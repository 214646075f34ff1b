import { abortError, QemuFileError } from '../../contract/errors.ts';
import type { MaybePromise, Whence } from '../../contract/ops.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { loadDigest } from '../../util/digest.ts';
import { noop } from '../../util/noop.ts';
import type { Unwrapped } from '../containers/unwrap.ts';
import type { FoundDescription } from '../devices/find-vm-description.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import type { MigrationStreamError } from '../format/stream-error.ts';
import { combineVisitors } from '../memory/combine-visitors.ts';
import { checkDiscarded, DiscardedPages } from '../memory/discarded-pages.ts';
import { decodePageIndex, extentDigest } from '../page-index/page-index.ts';
import type { PageSourceBlock } from '../page-source/page-source.ts';
import { MigrationReader } from '../reader/migration-reader.ts';
import { EXTENT_BYTES, ExtentCache } from './extent-cache.ts';
import { hasPagesElsewhere } from './multifd-pages.ts';
import { noRandomAccess, PagePlaces } from './page-places.ts';
import { openPositionedReads, type PositionedReads } from './positioned-reads.ts';
import { type GuestFrame, readFrame } from './read-frame.ts';
import type { SavedGuest } from './saved-guest.ts';
import { StreamPages } from './stream-pages.ts';
import { StreamWithoutGaps } from './stream-without-gaps.ts';

/** Bytes that the pass over a stream reads at a time. */
const PASS_CHUNK_BYTES = 262_144;

/** Gets the pages of a stream during the pass over it. */
export interface PassFollower {
  /** Receives the pages. */
  readonly pages: PageVisitor;
  /** Called with what has come so far before the first section with pages; awaited. */
  begin(frame: GuestFrame): Promise<void>;
  /** Waits until the follower can take more pages; called before bytes of the stream are read. */
  ready(): void | Promise<void>;
}

/** Options of `openSavedGuest`. */
export interface OpenSavedGuestOptions {
  /** What may be the VM description, if it was looked up at the end of the file; as for `MigrationReader`. */
  description?: FoundDescription | undefined;
  /** Called with each fault after which the stream can still be read. Default: the first one is thrown. */
  onFault?: ((fault: MigrationStreamError) => void) | undefined;
  /**
   * Contents of the stream's page index, as `PageIndexBuilder` made it: no pass over the stream is needed, and all that
   * is read of it is checked with the index's digests.
   */
  index?: Uint8Array | undefined;
  /** Ends the pass over the stream. */
  signal?: AbortSignal | undefined;
}

/**
 * Open a recorded stream as a guest with random access to its memory. One pass over the stream finds the places of
 * its pages; the pages themselves are read when they are asked for.
 *
 * @param stream - A stream in a file that can seek, as `unwrap` returns it: sequential or mapped-ram, bare, in a save
 *   image of libvirt or in a qcow2 snapshot. The guest owns it; it is closed if this rejects.
 * @param options - What is known about the stream.
 * @returns The guest.
 * @throws {MigrationStreamError} (rejects) `unsupported` (`ENOTSUP`) for a stream whose memory has no random access:
 *   compressed as a whole, from a pipe, with XBZRLE or compressed pages, or with pages in multifd channels;
 *   or with a command that QEMU does not know; `truncated` if pages that postcopy discarded did not come after that;
 *   otherwise as `MigrationReader`.
 * @throws {QemuFileError} (rejects) `EBADMSG` for an index that is damaged or belongs to another file; `ENOMEM` if the pages are in too many places; `ECANCELED` if aborted; the error of
 *   the file.
 * @example
 * ```js
 * const guest = await openSavedGuest(await unwrap(await openFrom(parseUri('file:vm.mig'))));
 * const page = new Uint8Array(guest.pages.pageSize);
 * await guest.pages.read(0, 0x100000, page);
 * await guest.close();
 * ```
 */
export function openSavedGuest(
  stream: Unwrapped,
  options: OpenSavedGuestOptions = {},
): Promise<SavedGuest> {
  return openSavedGuestWith(stream, options, undefined);
}

/**
 * Open a recorded stream as `openSavedGuest` does, with a follower of the pass over it.
 *
 * @param follower - Gets the pages, without an index.
 * @throws As `openSavedGuest`; (rejects) the errors of the follower.
 */
export async function openSavedGuestWith(
  stream: Unwrapped,
  options: OpenSavedGuestOptions,
  follower: PassFollower | undefined,
): Promise<SavedGuest> {
  let reads: PositionedReads | undefined;
  try {
    reads = await openPositionedReads(stream);
    return await read(reads, stream.fileOffset, options, follower);
  } catch (error) {
    await (reads ?? stream.file).close().catch(noop);
    throw error;
  }
}

async function read(
  reads: PositionedReads,
  fileOffset: number,
  { description, index, onFault, signal }: OpenSavedGuestOptions,
  follower: PassFollower | undefined,
): Promise<SavedGuest> {
  if (index !== undefined) return readWithIndex(reads, index, onFault);
  const places = new PagePlaces(() => isMapped(reader));
  const discarded = new DiscardedPages();
  const file = passFile(reads, fileOffset, signal, follower);
  const reader: MigrationReader = new MigrationReader(file, {
    pages: combineVisitors([
      places,
      {
        blocks: (blocks, pageSize) => discarded.blocks(blocks, pageSize),
        placed: (block, offset, length) => discarded.sent(block, offset, length),
        zero: (block, offset, count) => discarded.zero(block, offset, count),
      },
      ...(follower === undefined ? [] : [follower.pages]),
    ]),
    description,
    fileOffset,
    seekable: true,
    onFault,
  });
  const take = async (from: number, to: number): Promise<Uint8Array> => {
    const bytes = new Uint8Array(to - from);
    await reads.read(bytes, from);
    return bytes;
  };
  const frame = await readFrame(
    reader,
    { take },
    (event) => discarded.follow(event),
    (early) => follower?.begin(early) ?? Promise.resolve(),
  );
  if (hasPagesElsewhere(reader)) {
    throw noRandomAccess('its pages are in multifd channels', reader.position);
  }
  checkDiscarded(discarded, reader.position);
  const { pageSize } = reader.ram;
  const cache = new ExtentCache(reads);
  const blocks = reader.ram.blocks.map(sourceBlock);
  const pages = new StreamPages({ pageSize, blocks, runs: places.finish(), reads, cache });
  return { ...frame, pages, close: () => pages.close() };
}

async function readWithIndex(
  reads: PositionedReads,
  bytes: Uint8Array,
  onFault: OpenSavedGuestOptions['onFault'],
): Promise<SavedGuest> {
  await loadDigest();
  const { pageSize, size, blocks: listed, gaps, runs, digests } = decodePageIndex(bytes);
  if (size !== reads.size) {
    throw wrongIndex(`it is for a stream of ${size} bytes, and this one has ${reads.size}`);
  }
  const cache = new ExtentCache(reads, (extent, contents) => {
    if (extentDigest(contents) === digests[extent]) return;
    const at = extent * EXTENT_BYTES;
    throw wrongIndex(`bytes ${at} to ${at + contents.length} have another digest`, at);
  });
  const stream = new StreamWithoutGaps(cache, gaps, size);
  const file = stream.file();
  const reader = new MigrationReader(file, { pageSize, onFault });
  let frame: GuestFrame;
  try {
    frame = await readFrame(reader, stream);
  } finally {
    await file.close().catch(noop);
  }
  const blocks = reader.ram.blocks.map(sourceBlock);
  const fits =
    !isMapped(reader) &&
    blocks.length === listed.length &&
    listed.every(({ name, usedLength }, index) => {
      return blocks[index]?.name === name && blocks[index]?.usedLength === usedLength;
    });
  if (!fits) throw wrongIndex('it lists other RAM blocks');
  const pages = new StreamPages({ pageSize, blocks, runs, reads, cache });
  return { ...frame, pages, close: () => pages.close() };
}

function sourceBlock({ name, usedLength, hostPageSize, address }: RamBlock): PageSourceBlock {
  return { name, usedLength, hostPageSize, address };
}

function wrongIndex(why: string, position?: number): QemuFileError {
  const reason = `the page index does not fit the file: ${why}; the file was changed, or the index belongs to another one: remove the index`;
  return new QemuFileError('EBADMSG', reason, { operation: 'openSavedGuest', position });
}

function isMapped({ configuration }: MigrationReader): boolean {
  return configuration?.capabilities.includes('mapped-ram') === true;
}

/** Return a file for one pass over the stream. */
function passFile(
  reads: PositionedReads,
  fileOffset: number,
  signal: AbortSignal | undefined,
  follower: PassFollower | undefined,
): QemuFile {
  let next = 0;
  const readNext = (buffer: Uint8Array): MaybePromise<number> => {
    const read = reads.readSome(buffer, next);
    if (typeof read !== 'number') {
      return read.then((bytes) => {
        next += bytes;
        return bytes;
      });
    }
    next += read;
    return read;
  };
  return new QemuFile({
    getBuffer(buffer) {
      if (signal?.aborted) throw abortError(signal, 'openSavedGuest');
      const waiting = follower?.ready();
      return waiting === undefined ? readNext(buffer) : waiting.then(() => readNext(buffer));
    },
    getOffset: () => fileOffset + next,
    setOffset(offset: number, whence: Whence) {
      next = offset + (whence === 'set' ? -fileOffset : whence === 'end' ? reads.size : next);
      return fileOffset + next;
    },
    sizes: { lookAheadSize: PASS_CHUNK_BYTES },
  });
}
