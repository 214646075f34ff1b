import { QemuFileError } from '../../contract/errors.ts';
import type { Extent } from '../../migration/memory/ram-image.ts';
import type {
  PageRange,
  PageSource,
  PageSourceBlock,
} from '../../migration/page-source/page-source.ts';
import { pagesPerFrame } from '../format/limits.ts';
import type { SnapshotMap } from '../format/map.ts';
import { PackIndex } from '../format/pack-index.ts';
import type { CachedPack, FrameCache } from './frame-cache.ts';

/** Bytes of memory that are read ahead of a reader that goes from page to page. */
const READ_AHEAD_BYTES = 4_194_304;

/** Most frames of one request. */
const MAX_REQUEST_FRAMES = 8;

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
  /** The page after the last one that was read. */
  #next = -1;
  /** The page up to which frames were requested ahead. */
  #ahead = 0;

  constructor(map: SnapshotMap, cache: FrameCache) {
    this.pageSize = map.pageSize;
    this.blocks = map.blocks;
    this.#map = map;
    this.#cache = cache;
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
        while (sorted[end] === frame + end - at && end - at < MAX_REQUEST_FRAMES) end += 1;
        this.#cache.start(this.#pack(index), frame, frame + end - at);
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

  /** Copy pages up to the first one whose frame is not at hand; return the number of pages copied. */
  #copy(page: number, count: number, target: Uint8Array, from: number): number {
    const { runs } = this.#map;
    const size = this.pageSize;
    let done = from;
    while (done < count) {
      const run = runs.find(page + done);
      const start = run < 0 ? 0 : (runs.pages[run] as number);
      const distance = page + done - start;
      if (run >= 0 && distance < (runs.counts[run] as number)) {
        const stored = (runs.stored[run] as number) + distance;
        const index = this.#packIndex.packOf(stored);
        const inPack = stored - this.#packIndex.baseOf(index);
        const frame = Math.floor(inPack / this.#perFrame);
        const inFrame = inPack - frame * this.#perFrame;
        const bytes = this.#cache.find(this.#pack(index), frame);
        if (bytes === null) return done;
        const most = Math.min((runs.counts[run] as number) - distance, count - done);
        const take = Math.min(most, bytes.length / size - inFrame);
        target.set(bytes.subarray(inFrame * size, (inFrame + take) * size), done * size);
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

  async #copyRest(page: number, count: number, target: Uint8Array, from: number): Promise<void> {
    this.#request(page + from, page + count);
    let done = from;
    for (;;) {
      const stored = this.#map.runs.storedAt(page + done);
      const index = this.#packIndex.packOf(stored);
      const inPack = stored - this.#packIndex.baseOf(index);
      const frame = Math.floor(inPack / this.#perFrame);
      const inFrame = inPack - frame * this.#perFrame;
      const bytes = await this.#cache.get(this.#pack(index), frame);
      // The frame may be gone from the cache already, so its first page is copied from here.
      const at = inFrame * this.pageSize;
      target.set(bytes.subarray(at, at + this.pageSize), done * this.pageSize);
      done = this.#copy(page, count, target, done + 1);
      if (done === count) return;
    }
  }

  #readAhead(from: number): void {
    const end = from + READ_AHEAD_BYTES / this.pageSize;
    // Requests of some size, instead of one frame at a time.
    if (this.#ahead > from + (end - from) / 2) return;
    this.#request(Math.max(from, this.#ahead), end);
    this.#ahead = end;
  }

  /**
   * Start to read the frames of the pages from `from` up to `end` that are not at hand. Pages of an ancestor, between
   * which there are pages of others, mostly lie in adjacent frames, which are read with one request.
   */
  #request(from: number, end: number): void {
    const { runs } = this.#map;
    const wanted = new Map<number, FrameRange>();
    for (let run = Math.max(0, runs.find(from)); run < runs.length; run++) {
      const first = runs.pages[run] as number;
      if (first >= end) break;
      const start = Math.max(from, first);
      const stop = Math.min(end, first + (runs.counts[run] as number));
      if (stop <= start) continue;
      this.#want(wanted, (runs.stored[run] as number) + start - first, stop - start);
    }
    for (const [index, range] of wanted) this.#start(index, range);
  }

  /** Add the frames of stored pages to those that are wanted, by pack; start to read those that are not adjacent. */
  #want(wanted: Map<number, FrameRange>, stored: number, count: number): void {
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
        if (range !== undefined) this.#start(index, range);
        wanted.set(index, { first, end: last });
      }
      at = end;
    }
  }

  #start(index: number, { first, end }: FrameRange): void {
    for (let frame = first; frame < end; frame += MAX_REQUEST_FRAMES) {
      this.#cache.start(this.#pack(index), frame, Math.min(end, frame + MAX_REQUEST_FRAMES));
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
