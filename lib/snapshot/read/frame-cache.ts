import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import { noop } from '../../util/noop.ts';
import type { MapPack } from '../format/map.ts';
import { PackReader } from './pack-reader.ts';

/** Decompressed frames that are kept. */
const MAX_CACHE_BYTES = 67_108_864;

/** Packs whose heads are kept: each takes about 16 KiB. */
const MAX_PACK_READERS = 1024;

/** A frame that was read or is being read. */
export interface Frame {
  /** The contents; null while they are read. */
  bytes: Uint8Array | null;
  /** Settles when the contents are there, or cannot be read; null after that. */
  reading: Promise<void> | null;
}

/** A pack whose frames are cached. */
export interface CachedPack {
  readonly reader: PackReader;
  readonly frames: Map<number, Frame>;
}

/** Keeps the frames that were read last, for all readers of a store. */
export class FrameCache {
  readonly #storage: ObjectStorage;
  readonly #maxBytes: number;
  readonly #packs = new Map<string, CachedPack>();
  /** All frames with contents, the least recently used first. */
  readonly #order = new Map<Frame, { pack: CachedPack; index: number }>();
  #bytes = 0;

  /** @param maxBytes - Bytes of contents to keep. Default 64 MiB. */
  constructor(storage: ObjectStorage, maxBytes: number = MAX_CACHE_BYTES) {
    this.#storage = storage;
    this.#maxBytes = maxBytes;
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

  /** Return a frame whose contents are at hand; null for another one. */
  find(pack: CachedPack, index: number): Uint8Array | null {
    const frame = pack.frames.get(index);
    if (frame === undefined || frame.bytes === null) return null;
    // Moves it to the end.
    if (this.#order.delete(frame)) this.#order.set(frame, { pack, index });
    return frame.bytes;
  }

  /**
   * Start to read those of the frames from `first` up to, not including, `end` that are neither at hand nor
   * being read: adjacent ones with one request.
   */
  start(pack: CachedPack, first: number, end: number): void {
    for (let index = first; index < end; ) {
      let stop = index;
      while (stop < end && !pack.frames.has(stop)) stop += 1;
      if (stop > index) this.#read(pack, index, stop);
      index = stop + 1;
    }
  }

  /**
   * Return the contents of a frame.
   *
   * @throws {QemuFileError} (rejects) as `PackReader`.
   */
  async get(pack: CachedPack, index: number): Promise<Uint8Array> {
    for (;;) {
      const bytes = this.find(pack, index);
      if (bytes !== null) return bytes;
      this.start(pack, index, index + 1);
      const frame = pack.frames.get(index) as Frame;
      await frame.reading;
      if (frame.bytes !== null) return frame.bytes;
    }
  }

  #read(pack: CachedPack, first: number, end: number): void {
    const request = pack.reader.frames(first, end);
    for (let index = first; index < end; index++) {
      const frame: Frame = { bytes: null, reading: null };
      pack.frames.set(index, frame);
      frame.reading = this.#fill(frame, pack, index, request, index - first);
      // A later use reads it again; a caller that waits gets the error.
      frame.reading.catch(noop);
    }
  }

  async #fill(
    frame: Frame,
    pack: CachedPack,
    index: number,
    request: Promise<(Uint8Array | Error)[]>,
    place: number,
  ): Promise<void> {
    try {
      const bytes = (await request)[place] as Uint8Array | Error;
      if (bytes instanceof Error) throw bytes;
      frame.bytes = bytes;
      this.#order.set(frame, { pack, index });
      this.#bytes += bytes.length;
      this.#evict();
    } catch (error) {
      pack.frames.delete(index);
      throw error;
    } finally {
      frame.reading = null;
    }
  }

  #evict(): void {
    for (const [frame, { pack, index }] of this.#order) {
      if (this.#bytes <= this.#maxBytes) return;
      this.#order.delete(frame);
      this.#bytes -= (frame.bytes as Uint8Array).length;
      if (pack.frames.get(index) === frame) pack.frames.delete(index);
    }
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
