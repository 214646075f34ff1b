import { abortError } from '../../contract/errors.ts';
import type { Whence } from '../../contract/ops.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { Unwrapped } from '../containers/unwrap.ts';
import type { FoundDescription } from '../devices/find-vm-description.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { MigrationReader } from '../reader/migration-reader.ts';
import { ExtentCache } from './extent-cache.ts';
import { hasPagesElsewhere } from './multifd-pages.ts';
import { type PageRuns, PageRunsBuilder } from './page-runs.ts';
import { openPositionedReads, type PositionedReads } from './positioned-reads.ts';
import { readFrame } from './read-frame.ts';
import type { SavedGuest } from './saved-guest.ts';
import { StreamPages } from './stream-pages.ts';

/** Bytes before each page that has a record of its own. */
const WORD_BYTES = 8;

/** Bytes that the pass over a stream reads at a time. */
const PASS_CHUNK_BYTES = 262_144;

/** Options of `openSavedGuest`. */
export interface OpenSavedGuestOptions {
  /** What may be the VM description, if it was looked up at the end of the file; as for `MigrationReader`. */
  description?: FoundDescription | undefined;
  /** Called with each fault after which the stream can still be read. Default: the first one is thrown. */
  onFault?: ((fault: MigrationStreamError) => void) | undefined;
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
 *   otherwise as `MigrationReader`.
 * @throws {QemuFileError} (rejects) `ENOMEM` if the pages are in too many places; `ECANCELED` if aborted; the error of
 *   the file.
 * @example
 * ```js
 * const guest = await openSavedGuest(await unwrap(await openFrom(parseUri('file:vm.mig'))));
 * const page = new Uint8Array(guest.pages.pageSize);
 * await guest.pages.read(0, 0x100000, page);
 * await guest.close();
 * ```
 */
export async function openSavedGuest(
  stream: Unwrapped,
  options: OpenSavedGuestOptions = {},
): Promise<SavedGuest> {
  let reads: PositionedReads | undefined;
  try {
    reads = await openPositionedReads(stream);
    return await read(reads, stream.fileOffset, options);
  } catch (error) {
    await (reads ?? stream.file).close().catch(() => {});
    throw error;
  }
}

async function read(
  reads: PositionedReads,
  fileOffset: number,
  { description, onFault, signal }: OpenSavedGuestOptions,
): Promise<SavedGuest> {
  const places = new PagePlaces(() => reader.configuration?.capabilities.includes('mapped-ram'));
  const file = passFile(reads, fileOffset, signal);
  const reader: MigrationReader = new MigrationReader(file, {
    pages: places,
    description,
    fileOffset,
    seekable: true,
    onFault,
  });
  const frame = await readFrame(reader, {
    async take(from, to) {
      const bytes = new Uint8Array(to - from);
      await reads.read(bytes, from);
      return bytes;
    },
  });
  if (hasPagesElsewhere(reader)) {
    throw unsupported('its pages are in multifd channels', reader.position);
  }
  const { pageSize } = reader.ram;
  const blocks = reader.ram.blocks.map(({ name, usedLength, hostPageSize, address }) => {
    return { name, usedLength, hostPageSize, address };
  });
  const cache = new ExtentCache(reads);
  const pages = new StreamPages({ pageSize, blocks, runs: places.finish(), reads, cache });
  return { ...frame, pages, close: () => pages.close() };
}

/** Notes where the pages of a stream are. */
class PagePlaces implements PageVisitor {
  readonly #isMapped: () => boolean | undefined;
  #runs = new PageRunsBuilder(0);
  #pageSize = 0;
  /** First page of each block, counted through all blocks. */
  #firsts: number[] = [];

  constructor(isMapped: () => boolean | undefined) {
    this.#isMapped = isMapped;
  }

  blocks(blocks: readonly RamBlock[], pageSize: number): void {
    if (pageSize !== this.#pageSize) {
      this.#pageSize = pageSize;
      this.#runs = new PageRunsBuilder(pageSize + (this.#isMapped() === true ? 0 : WORD_BYTES));
    }
    this.#firsts = [];
    let first = 0;
    for (const { usedLength } of blocks) {
      this.#firsts.push(first);
      first += Math.ceil(usedLength / pageSize);
    }
  }

  placed(block: RamBlock, offset: number, length: number, position: number): void {
    if (position < 0) throw unsupported('it has pages that were not sent as they are', position);
    const page = (this.#firsts[block.index] as number) + offset / this.#pageSize;
    this.#runs.add(page, length / this.#pageSize, position);
  }

  zero(block: RamBlock, offset: number, count: number): void {
    const page = (this.#firsts[block.index] as number) + offset / this.#pageSize;
    this.#runs.addZeros(page, count);
  }

  xbzrle(): void {
    throw unsupported('it has XBZRLE pages', undefined);
  }

  finish(): PageRuns {
    return this.#runs.finish();
  }
}

function unsupported(why: string, position: number | undefined): MigrationStreamError {
  const reason = `the memory of this stream has no random access: ${why}; convert it with "qemu-file compact FROM TO"`;
  const at = position === undefined || position < 0 ? undefined : position;
  return new MigrationStreamError('unsupported', reason, { position: at });
}

/** Return a file for one pass over the stream. */
function passFile(
  reads: PositionedReads,
  fileOffset: number,
  signal: AbortSignal | undefined,
): QemuFile {
  let next = 0;
  return new QemuFile({
    getBuffer(buffer) {
      if (signal?.aborted) throw abortError(signal, 'openSavedGuest');
      const read = reads.readSome(buffer, next);
      if (typeof read !== 'number') {
        return read.then((bytes) => {
          next += bytes;
          return bytes;
        });
      }
      next += read;
      return read;
    },
    getOffset: () => fileOffset + next,
    setOffset(offset: number, whence: Whence) {
      next = offset + (whence === 'set' ? -fileOffset : whence === 'end' ? reads.size : next);
      return fileOffset + next;
    },
    sizes: { lookAheadSize: PASS_CHUNK_BYTES },
  });
}
