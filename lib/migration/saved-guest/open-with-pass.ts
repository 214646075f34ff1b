import { abortError } from '../../contract/errors.ts';
import type { MaybePromise, Whence } from '../../contract/ops.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import { combineVisitors } from '../memory/combine-visitors.ts';
import { checkDiscarded, DiscardedPages } from '../memory/discarded-pages.ts';
import type { PageSourceBlock } from '../page-source/page-source.ts';
import { MigrationReader } from '../reader/migration-reader.ts';
import { ExtentCache } from '../stream-pages/extent-cache.ts';
import { noRandomAccess, PagePlaces } from '../stream-pages/page-places.ts';
import type { PositionedReads } from '../stream-pages/positioned-reads.ts';
import { StreamPages } from '../stream-pages/stream-pages.ts';
import { hasPagesElsewhere } from './multifd-pages.ts';
import type { OpenSavedGuestOptions } from './open-saved-guest-options.ts';
import { type GuestFrame, readFrame } from './read-frame.ts';
import type { SavedGuest } from './saved-guest.ts';

/** Bytes that the pass over a stream reads at a time. */
const PASS_CHUNK_BYTES = 262_144;

/** Gets the pages of a stream during the pass over it. */
export interface PassFollower {
  /** Receives the pages. */
  readonly pages: PageVisitor;
  /** Called before the first section with pages, with the parts read so far; awaited. */
  begin(frame: GuestFrame): Promise<void>;
  /** Waits until the follower can take more pages; called before bytes of the stream are read. */
  ready(): void | Promise<void>;
}

/**
 * Open a recorded stream by one pass over it, which finds the places of its pages.
 *
 * @param reads - The stream.
 * @param fileOffset - Offset in its file of the stream's first byte.
 * @param follower - Gets the pages during the pass.
 * @throws As `openSavedGuest`; (rejects) the errors of the follower.
 */
export async function openWithPass(
  reads: PositionedReads,
  fileOffset: number,
  { description, onFault, signal }: OpenSavedGuestOptions,
  follower: PassFollower | undefined,
): Promise<SavedGuest> {
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

function sourceBlock({ name, usedLength, hostPageSize, address }: RamBlock): PageSourceBlock {
  return { name, usedLength, hostPageSize, address };
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
