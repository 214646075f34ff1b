import { QemuFileError } from '../../contract/errors.ts';
import type { Extent } from '../../migration/memory/ram-image.ts';
import type {
  PageRange,
  PageSource,
  PageSourceBlock,
} from '../../migration/page-source/page-source.ts';
import { unreadablePage } from '../format/damage.ts';
import { FRAME_BYTES, pagesPerFrame } from '../format/limits.ts';
import type { SnapshotMap } from '../format/map.ts';
import { PackIndex } from '../format/pack-index.ts';
import type { CachedPack, FrameCache } from './frame-cache.ts';

/**
 * Bytes of memory that are read ahead of a reader that goes from page to page, if others may ask for pages meanwhile:
 * these wait for what was requested before.
 */
const READ_AHEAD_BYTES = 4_194_304;

/** A request is for so much of what is read ahead. */
const REQUESTS_AHEAD = 4;

/** Most requests that are sent at once for pages that will be read soon: those for a page that is missing come after. */
const MAX_EARLY_REQUESTS = 32;

/** Frames of a pack from `first` up to, not including, `end`. */
interface FrameRange {
  readonly first: number;
  end: number;
}

/** The guest memory of a snapshot. */
export class SnapshotPages implements PageSource {
  readonly pageSize: number;
  readonly blocks: readonly PageSourceBlock[];
  readonly #map: SnapshotMap;
  readonly #cache: FrameCache;
  readonly #packs: (CachedPack | undefined)[] = [];
  readonly #packIndex: PackIndex;
  /** Number of the first page of each block, counted through all blocks. */
  readonly #firsts: number[] = [];
  readonly #perFrame: number;
  /** Pages that are read ahead. */
  readonly #aheadPages: number;
  /** Most frames of one request. */
  readonly #requestFrames: number;
  /** The page after the last one that was read. */
  #next = -1;
  /** The page up to which frames were requested ahead. */
  #ahead = 0;

  /** @param readAheadBytes - Bytes of memory that are read ahead of a reader that goes from page to page. */
  constructor(map: SnapshotMap, cache: FrameCache, readAheadBytes: number = READ_AHEAD_BYTES) {
    this.pageSize = map.pageSize;
    this.blocks = map.blocks;
    this.#map = map;
    this.#cache = cache;
    const ahead = Math.min(readAheadBytes, cache.maxBytes / 4);
    this.#aheadPages = Math.floor(ahead / map.pageSize);
    this.#requestFrames = Math.max(1, Math.floor(ahead / REQUESTS_AHEAD / FRAME_BYTES));
    this.#perFrame = pagesPerFrame(map.pageSize);
    this.#packIndex = new PackIndex(map.packs);
    let first = 0;
    for (const { usedLength } of map.blocks) {
      this.#firsts.push(first);
      first += usedLength / map.pageSize;
    }
  }

  /** Number of packs and of runs of pages, and bytes of a page. */
  get layout(): { readonly packs: number; readonly runs: number; readonly pageSize: number } {
    return { packs: this.#map.packs.length, runs: this.#map.runs.length, pageSize: this.pageSize };
  }

  *extents(block: number): Generator<Extent> {
    const { runs } = this.#map;
    const first = this.#firstOf(block);
    const end = first + (this.blocks[block] as PageSourceBlock).usedLength / this.pageSize;
    let from = first;
    let to = first;
    for (let run = Math.max(0, runs.find(first)); run < runs.length; run++) {
      const start = Math.max(first, runs.pages[run] as number);
      const stop = Math.min(end, (runs.pages[run] as number) + (runs.counts[run] as number));
      if (start >= end) break;
      if (stop <= start) continue;
      if (start !== to) {
        if (to > from) yield this.#extent(first, from, to);
        from = start;
      }
      to = stop;
    }
    if (to > from) yield this.#extent(first, from, to);
  }

  /**
   * @throws {QemuFileError} (rejects) `EBADMSG` if an object of the snapshot is damaged or missing; the error of the
   *   storage.
   */
  read(block: number, offset: number, target: Uint8Array): void | Promise<void> {
    const first = this.#firstOf(block);
    const page = first + offset / this.pageSize;
    const count = target.length / this.pageSize;
    const { usedLength } = this.blocks[block] as PageSourceBlock;
    if (!Number.isInteger(page) || !Number.isInteger(count) || page < first) {
      throw new RangeError(`${target.length} bytes from ${offset} are not whole pages`);
    }
    if (offset + target.length > usedLength) {
      throw new RangeError(`${target.length} bytes from ${offset} exceed ${usedLength}`);
    }
    if (page === this.#next) this.#readAhead(page + count);
    else this.#ahead = 0;
    this.#next = page + count;
    const done = this.#copy(page, count, target, 0);
    if (done < count) return this.#copyRest(page, count, target, done);
  }

  /**
   * Return contents of a block for a reader that goes from page to page: one page or several, as many as lie in one
   * frame; null if they are not in the cache. The memory is used again after the caller's next `await`.
   *
   * @param offset - Offset in the block of a page that is not zeros.
   * @param length - Most bytes to return; none of them is in a page of zeros.
   */
  cached(block: number, offset: number, length: number): Uint8Array | null {
    const size = this.pageSize;
    const page = this.#firstOf(block) + offset / size;
    this.#readAhead(page);
    const { runs } = this.#map;
    const run = runs.find(page);
    const distance = page - (runs.pages[run] as number);
    const count = runs.counts[run] as number;
    const stored = (runs.stored[run] as number) + distance;
    const bytes = this.#found(stored);
    if (bytes === null) return null;
    const most = Math.min((count - distance) * size, length);
    if (most < bytes.length) return bytes.subarray(0, most);
    // Of a frame that no other pages share, nothing is needed again.
    if (distance + bytes.length / size >= this.#perFrame) this.#forget(stored);
    return bytes;
  }

  /**
   * Wait until the frame of a page that is not zeros is in the cache.
   *
   * @throws {QemuFileError} (rejects) as `read`.
   */
  fetch(block: number, offset: number): Promise<void> {
    return this.#fetch(this.#firstOf(block) + offset / this.pageSize);
  }

  readAhead(ranges: readonly PageRange[]): void {
    const frames = new Map<number, Set<number>>();
    for (const { block, page, count } of ranges) {
      const first = this.#firstOf(block) + page;
      for (let at = first; at < first + count; at++) this.#addFrame(frames, at);
    }
    let requests = 0;
    for (const [index, set] of frames) {
      const sorted = [...set].sort((a, b) => a - b);
      for (let at = 0; at < sorted.length && requests < MAX_EARLY_REQUESTS; requests++) {
        const frame = sorted[at] as number;
        let end = at + 1;
        while (sorted[end] === frame + end - at && end - at < this.#requestFrames) end += 1;
        this.#cache.start(this.#pack(index), frame, frame + end - at, false);
        at = end;
      }
    }
  }

  /** Add the frame of a page to those of its pack. */
  #addFrame(frames: Map<number, Set<number>>, page: number): void {
    const stored = this.#map.runs.storedAt(page);
    if (stored < 0) return;
    const index = this.#packIndex.packOf(stored);
    const frame = Math.floor((stored - this.#packIndex.baseOf(index)) / this.#perFrame);
    const known = frames.get(index);
    if (known === undefined) frames.set(index, new Set([frame]));
    else known.add(frame);
  }

  /** Copy pages up to the first one whose frame is not in the cache; return the number of pages copied. */
  #copy(page: number, count: number, target: Uint8Array, from: number): number {
    const { runs } = this.#map;
    const size = this.pageSize;
    let done = from;
    while (done < count) {
      const run = runs.find(page + done);
      const start = run < 0 ? 0 : (runs.pages[run] as number);
      const distance = page + done - start;
      if (run >= 0 && distance < (runs.counts[run] as number)) {
        const bytes = this.#found((runs.stored[run] as number) + distance);
        if (bytes === null) return done;
        const most = Math.min((runs.counts[run] as number) - distance, count - done);
        const take = Math.min(most, bytes.length / size);
        target.set(bytes.subarray(0, take * size), done * size);
        done += take;
      } else {
        const next = run + 1 < runs.length ? (runs.pages[run + 1] as number) : page + count;
        const take = Math.min(count - done, next - page - done);
        target.fill(0, done * size, (done + take) * size);
        done += take;
      }
    }
    return done;
  }

  /** Let the memory of the frame of a stored page be used again. */
  #forget(stored: number): void {
    const index = this.#packIndex.packOf(stored);
    const frame = Math.floor((stored - this.#packIndex.baseOf(index)) / this.#perFrame);
    this.#cache.forget(this.#pack(index), frame);
  }

  /** Return the contents of a stored page, and of those after it in its frame; null if they are not in the cache. */
  #found(stored: number): Uint8Array | null {
    const index = this.#packIndex.packOf(stored);
    const inPack = stored - this.#packIndex.baseOf(index);
    const frame = Math.floor(inPack / this.#perFrame);
    const bytes = this.#cache.find(this.#pack(index), frame);
    return bytes === null
      ? null
      : bytes.subarray((inPack - frame * this.#perFrame) * this.pageSize);
  }

  async #copyRest(page: number, count: number, target: Uint8Array, from: number): Promise<void> {
    this.#request(page + from, page + count, true);
    for (let done = from; done < count; ) {
      await this.#fetch(page + done);
      done = this.#copy(page, count, target, done);
    }
  }

  /** Wait until the frame of a page that is not zeros is in the cache. */
  #fetch(page: number): Promise<void> {
    const stored = this.#map.runs.storedAt(page);
    const index = this.#packIndex.packOf(stored);
    const frame = Math.floor((stored - this.#packIndex.baseOf(index)) / this.#perFrame);
    return this.#cache.ready(this.#pack(index), frame).catch((error: unknown) => {
      const block = this.#firsts.findLastIndex((first) => first <= page);
      const { name } = this.blocks[block] as PageSourceBlock;
      throw unreadablePage(error, name, (page - this.#firstOf(block)) * this.pageSize);
    });
  }

  /** Request the pages from `from` on that will be read next. */
  #readAhead(from: number): void {
    const end = from + this.#aheadPages;
    // Requests of some size, instead of one frame at a time.
    if (this.#ahead > from + (end - from) / 2) return;
    this.#request(Math.max(from, this.#ahead), end, false);
    this.#ahead = end;
  }

  /**
   * Start to read the frames of the pages from `from` up to `end` that are not in the cache. Pages of an ancestor, between
   * which there are pages of others, mostly lie in adjacent frames, which are read with one request.
   */
  #request(from: number, end: number, isUrgent: boolean): void {
    const { runs } = this.#map;
    const wanted = new Map<number, FrameRange>();
    for (let run = Math.max(0, runs.find(from)); run < runs.length; run++) {
      const first = runs.pages[run] as number;
      if (first >= end) break;
      const start = Math.max(from, first);
      const stop = Math.min(end, first + (runs.counts[run] as number));
      if (stop <= start) continue;
      const stored = (runs.stored[run] as number) + start - first;
      this.#want(wanted, stored, stop - start, isUrgent);
    }
    for (const [index, range] of wanted) this.#start(index, range, isUrgent);
  }

  /** Add the frames of stored pages to those that are wanted, by pack; start to read those that are not adjacent. */
  #want(wanted: Map<number, FrameRange>, stored: number, count: number, isUrgent: boolean): void {
    for (let at = stored; at < stored + count; ) {
      const index = this.#packIndex.packOf(at);
      const base = this.#packIndex.baseOf(index);
      const end = Math.min(stored + count, this.#packIndex.baseOf(index + 1));
      const first = Math.floor((at - base) / this.#perFrame);
      const last = Math.ceil((end - base) / this.#perFrame);
      const range = wanted.get(index);
      if (range !== undefined && first >= range.first && first <= range.end) {
        range.end = Math.max(range.end, last);
      } else {
        if (range !== undefined) this.#start(index, range, isUrgent);
        wanted.set(index, { first, end: last });
      }
      at = end;
    }
  }

  #start(index: number, { first, end }: FrameRange, isUrgent: boolean): void {
    for (let frame = first; frame < end; frame += this.#requestFrames) {
      const stop = Math.min(end, frame + this.#requestFrames);
      this.#cache.start(this.#pack(index), frame, stop, isUrgent);
    }
  }

  #pack(index: number): CachedPack {
    const known = this.#packs[index];
    if (known !== undefined) return known;
    const pack = this.#map.packs[index];
    if (pack === undefined) throw new QemuFileError('EINVAL', `there is no pack ${index}`);
    const cached = this.#cache.pack(pack);
    this.#packs[index] = cached;
    return cached;
  }

  #extent(first: number, from: number, to: number): Extent {
    return { at: (from - first) * this.pageSize, length: (to - from) * this.pageSize };
  }

  #firstOf(block: number): number {
    const first = this.#firsts[block];
    if (first === undefined) throw new RangeError(`${block} is not the number of a RAM block`);
    return first;
  }
}
