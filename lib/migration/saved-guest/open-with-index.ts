import { loadDigest } from '../../util/digest.ts';
import { decodePageIndex } from '../page-index/decode-page-index.ts';
import { extentDigest } from '../page-index/page-index.ts';
import { EXTENT_BYTES, ExtentCache } from '../stream-pages/extent-cache.ts';
import type { PositionedReads } from '../stream-pages/positioned-reads.ts';
import { StreamPages } from '../stream-pages/stream-pages.ts';
import { readIndexedFrame } from './indexed-frame.ts';
import type { StreamBytes } from './read-frame.ts';
import type { SavedGuest } from './saved-guest.ts';
import { wrongIndex } from './wrong-index.ts';

/**
 * Open a recorded stream with its index: only its sections are read, and what is read is checked with the digests of
 * the index.
 *
 * @param reads - The stream.
 * @param bytes - The contents of the index.
 * @throws {QemuFileError} (rejects) `EBADMSG` for an index that is damaged or belongs to another file; `ENOTSUP` for one
 *   of another version; the error of the file.
 * @throws {MigrationStreamError} (rejects) `unsupported` for a stream without RAM.
 */
export async function openWithIndex(
  reads: PositionedReads,
  bytes: Uint8Array,
): Promise<SavedGuest> {
  await loadDigest();
  const index = decodePageIndex(bytes);
  const { pageSize, size, blocks, runs, digests } = index;
  if (size !== reads.size) {
    throw wrongIndex(`it is for a stream of ${size} bytes, and this one has ${reads.size}`);
  }
  const cache = new ExtentCache(reads, (extent, contents) => {
    if (extentDigest(contents) === digests[extent]) return;
    const at = extent * EXTENT_BYTES;
    throw wrongIndex(`bytes ${at} to ${at + contents.length} have another digest`, at);
  });
  const frame = await readIndexedFrame(index, new ExtentBytes(cache, size));
  const pages = new StreamPages({ pageSize, blocks, runs, reads, cache });
  return { ...frame, pages, close: () => pages.close() };
}

/** The bytes of a stream, out of its extents. */
class ExtentBytes implements StreamBytes {
  readonly #cache: ExtentCache;
  readonly #size: number;

  constructor(cache: ExtentCache, size: number) {
    this.#cache = cache;
    this.#size = size;
  }

  async take(from: number, to: number): Promise<Uint8Array> {
    if (to > this.#size) throw wrongIndex(`it names bytes after its end`, this.#size);
    const target = new Uint8Array(to - from);
    let done = 0;
    while (done < target.length) {
      const at = from + done;
      const extent = this.#cache.use(Math.floor(at / EXTENT_BYTES));
      try {
        await extent.reading;
        const start = at % EXTENT_BYTES;
        const part = (extent.bytes as Buffer).subarray(start, start + target.length - done);
        target.set(part, done);
        done += part.length;
      } finally {
        this.#cache.release(extent);
      }
    }
    return target;
  }
}
