import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import { noop } from '../../util/noop.ts';
import { FRAME_BYTES } from '../format/limits.ts';
import type { MapPack } from '../format/map.ts';
import { FrameMemory } from './frame-memory.ts';
import { PackReader } from './pack-reader.ts';

/** Bytes of decompressed frames in the cache. */
const MAX_CACHE_BYTES = 67_108_864;

/** Packs whose heads are cached: each takes about 16 KiB. */
const MAX_PACK_READERS = 1024;

/** A frame that was read or is being read. */
interface Frame {
  /** The contents; null while they are read. */
  bytes: Uint8Array | null;
  /** Settles when the contents are there, or cannot be read; null after that. */
  reading: Promise<void> | null;
  readonly pack: CachedPack;
  readonly index: number;
  /** Holds the contents. */
  readonly memory: Uint8Array;
}

/** A pack whose frames are cached. */
export interface CachedPack {
  readonly reader: PackReader;
  readonly frames: Map<number, Frame>;
}

/** Caches the frames that were read last, for all readers of a store. */
export class FrameCache {
  /** Most bytes of contents in the cache. */
  readonly maxBytes: number;
  readonly #storage: ObjectStorage;
  readonly #memory = new FrameMemory();
  readonly #packs = new Map<string, CachedPack>();
  /** All frames with contents, the least recently used first. */
  readonly #order = new Set<Frame>();

  /** @param maxBytes - Most bytes of contents in the cache. Default 64 MiB. */
  constructor(storage: ObjectStorage, maxBytes: number = MAX_CACHE_BYTES) {
    this.#storage = storage;
    this.maxBytes = maxBytes;
  }

  /** Return a pack. Its user may keep it. */
  pack(pack: MapPack): CachedPack {
    let cached = this.#packs.get(pack.digest);
    if (cached === undefined || !isSame(cached.reader.pack, pack)) {
      cached = { reader: new PackReader(this.#storage, pack), frames: new Map() };
      if (this.#packs.size >= MAX_PACK_READERS) this.#dropPack();
    } else {
      this.#packs.delete(pack.digest);
    }
    this.#packs.set(pack.digest, cached);
    return cached;
  }

  /**
   * Return the contents of a frame, valid until the caller's next `await`: after that, the memory may hold another frame.
   * Null if they are not in the cache.
   */
  find(pack: CachedPack, index: number): Uint8Array | null {
    const frame = pack.frames.get(index);
    if (frame === undefined || frame.bytes === null) return null;
    // Moves it to the end.
    this.#order.delete(frame);
    this.#order.add(frame);
    return frame.bytes;
  }

  /** Drop a frame from the cache; its contents stay valid until the caller's next `await`. */
  forget(pack: CachedPack, index: number): void {
    const frame = pack.frames.get(index);
    if (frame !== undefined && this.#order.delete(frame)) this.#drop(frame);
  }

  /**
   * Start to read those of the frames from `first` up to, not including, `end` that are neither in the cache nor
   * being read: adjacent ones with one request.
   *
   * @param isUrgent - Whether a guest may wait for them.
   */
  start(pack: CachedPack, first: number, end: number, isUrgent: boolean): void {
    for (let index = first; index < end; ) {
      let stop = index;
      while (stop < end && !pack.frames.has(stop)) stop += 1;
      if (stop > index) this.#read(pack, index, stop, isUrgent);
      index = stop + 1;
    }
  }

  /**
   * Wait until a frame is in the cache. Others may displace it before the caller calls `find`.
   *
   * @throws {QemuFileError} (rejects) as `PackReader`.
   */
  async ready(pack: CachedPack, index: number): Promise<void> {
    this.start(pack, index, index + 1, true);
    await pack.frames.get(index)?.reading;
  }

  /**
   * Return a copy of the contents of a frame.
   *
   * @throws {QemuFileError} (rejects) as `PackReader`.
   */
  async get(pack: CachedPack, index: number): Promise<Uint8Array> {
    for (;;) {
      const bytes = this.find(pack, index);
      if (bytes !== null) return bytes.slice();
      await this.ready(pack, index);
    }
  }

  #read(pack: CachedPack, first: number, end: number, isUrgent: boolean): void {
    const memories: Uint8Array[] = [];
    for (let index = first; index < end; index++) memories.push(this.#memory.take());
    const request = pack.reader.frames(first, memories, isUrgent);
    for (const [place, memory] of memories.entries()) {
      const index = first + place;
      const frame: Frame = { bytes: null, reading: null, pack, index, memory };
      pack.frames.set(index, frame);
      frame.reading = this.#fill(frame, request, place);
      // A later use reads it again; a caller that waits gets the error.
      frame.reading.catch(noop);
    }
  }

  async #fill(
    frame: Frame,
    request: Promise<(Uint8Array | Error)[]>,
    place: number,
  ): Promise<void> {
    try {
      const bytes = (await request)[place] as Uint8Array | Error;
      if (bytes instanceof Error) throw bytes;
      frame.bytes = bytes;
      this.#order.add(frame);
      this.#evict();
    } catch (error) {
      this.#drop(frame);
      throw error;
    } finally {
      frame.reading = null;
    }
  }

  #evict(): void {
    const { maxBytes } = this;
    for (const frame of this.#order) {
      // The last one is about to be used, however small the cache is.
      if (this.#order.size * FRAME_BYTES <= maxBytes || this.#order.size === 1) return;
      this.#order.delete(frame);
      this.#drop(frame);
    }
  }

  #drop({ pack, index, memory }: Frame): void {
    pack.frames.delete(index);
    this.#memory.giveBack(memory);
  }

  /** Forget the pack that was opened first: its users go on with it. */
  #dropPack(): void {
    const [digest] = this.#packs.keys();
    if (digest !== undefined) this.#packs.delete(digest);
  }
}

function isSame(a: MapPack, b: MapPack): boolean {
  return a.bytes === b.bytes && a.pages === b.pages && a.frames === b.frames;
}
