import { QemuFileError } from '../../contract/errors.ts';
import { keysWithin } from './page-set.ts';

/** Allocation unit of `MemoryPageStore`: small, so that scattered pages do not cost many times their size. */
const CHUNK_BYTES = 16_384;

/** Default limit of `SpillingStore`. */
const MEMORY_LIMIT_BYTES = 67_108_864;

/**
 * Bytes at positions below 2^53, zero until they are written. All operations are synchronous, as page
 * visitors are.
 */
export interface PageStore {
  /** Store a copy of bytes; the caller may reuse the buffer afterwards. */
  write(at: number, bytes: Uint8Array): void;
  /** Set a range to zeros, at no cost where nothing was written. */
  zero(at: number, length: number): void;
  /** Fill `target` with the bytes stored at `at`. */
  read(at: number, target: Uint8Array): void;
  /** Free the store; it must not be used afterwards. May be called again. */
  close(): void;
}

/** A store in memory that allocates only near written bytes. */
export class MemoryPageStore implements PageStore {
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #limit: number;

  /** @param limit - Most bytes to allocate, in units of 16 KiB. Default: unlimited. */
  constructor(limit: number = Number.POSITIVE_INFINITY) {
    this.#limit = limit;
  }

  /** Bytes of memory allocated. */
  get allocated(): number {
    return this.#chunks.size * CHUNK_BYTES;
  }

  /** Return whether a write of `size` bytes may exceed the limit. */
  mayExceed(size: number): boolean {
    return this.allocated + size + 2 * CHUNK_BYTES > this.#limit;
  }

  /** @throws {QemuFileError} `ENOMEM` past the limit; stored bytes are kept. */
  write(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const key = Math.floor((at + done) / CHUNK_BYTES);
      const start = at + done - key * CHUNK_BYTES;
      const size = Math.min(bytes.length - done, CHUNK_BYTES - start);
      const chunk = this.#chunks.get(key) ?? this.#grow(key);
      chunk.set(size === bytes.length ? bytes : bytes.subarray(done, done + size), start);
      done += size;
    }
  }

  zero(at: number, length: number): void {
    if (length <= 0) return;
    const high = Math.floor((at + length - 1) / CHUNK_BYTES);
    for (const key of keysWithin(this.#chunks, Math.floor(at / CHUNK_BYTES), high)) {
      const start = Math.max(at - key * CHUNK_BYTES, 0);
      const end = Math.min(at + length - key * CHUNK_BYTES, CHUNK_BYTES);
      if (end - start === CHUNK_BYTES) this.#chunks.delete(key);
      else this.#chunks.get(key)?.fill(0, start, end);
    }
  }

  read(at: number, target: Uint8Array): void {
    for (let done = 0; done < target.length; ) {
      const key = Math.floor((at + done) / CHUNK_BYTES);
      const start = at + done - key * CHUNK_BYTES;
      const size = Math.min(target.length - done, CHUNK_BYTES - start);
      const chunk = this.#chunks.get(key);
      if (chunk === undefined) target.fill(0, done, done + size);
      else target.set(chunk.subarray(start, start + size), done);
      done += size;
    }
  }

  close(): void {
    this.#chunks.clear();
  }

  /** Write all stored bytes to another store. */
  copyTo(store: PageStore): void {
    const keys = [...this.#chunks.keys()].sort((a, b) => a - b);
    for (const key of keys) store.write(key * CHUNK_BYTES, this.#chunks.get(key) as Uint8Array);
  }

  #grow(key: number): Uint8Array {
    if (this.allocated + CHUNK_BYTES > this.#limit) {
      const reason = `guest memory exceeds the limit of ${this.#limit} bytes in memory`;
      throw new QemuFileError('ENOMEM', reason);
    }
    const chunk = new Uint8Array(CHUNK_BYTES);
    this.#chunks.set(key, chunk);
    return chunk;
  }
}

/** A store that starts in memory and moves to another store as a whole when it grows past a limit. */
export class SpillingStore implements PageStore {
  readonly #memory: MemoryPageStore;
  readonly #makeStore: () => PageStore;
  #store: PageStore;

  /**
   * @param makeStore - Creates the store to move to, such as a temporary file; called when needed.
   * @param limit - Most bytes of memory. Default 64 MiB.
   */
  constructor(makeStore: () => PageStore, limit: number = MEMORY_LIMIT_BYTES) {
    this.#makeStore = makeStore;
    this.#memory = new MemoryPageStore(limit);
    this.#store = this.#memory;
  }

  /** Whether the contents have moved to the other store. */
  get hasSpilled(): boolean {
    return this.#store !== this.#memory;
  }

  write(at: number, bytes: Uint8Array): void {
    if (this.#store === this.#memory && this.#memory.mayExceed(bytes.length)) this.#spill();
    this.#store.write(at, bytes);
  }

  zero(at: number, length: number): void {
    this.#store.zero(at, length);
  }

  read(at: number, target: Uint8Array): void {
    this.#store.read(at, target);
  }

  close(): void {
    this.#store.close();
  }

  #spill(): void {
    const store = this.#makeStore();
    try {
      this.#memory.copyTo(store);
    } catch (error) {
      store.close();
      throw error;
    }
    this.#memory.close();
    this.#store = store;
  }
}

/** A range of a `PlacedStore` and its position in the underlying store. */
export interface Placement {
  /** First byte of the range. */
  readonly at: number;
  readonly length: number;
  /** Position of that byte in the underlying store. */
  readonly to: number;
}

/**
 * A part of another store with positions of its own: one block among several in a file, or a block whose
 * parts are apart.
 */
export class PlacedStore implements PageStore {
  readonly #store: PageStore;
  readonly #placements: readonly Placement[];

  /**
   * @param store - The underlying store. Its creator closes it; `close()` here does not.
   * @param placements - Few: each access searches them in order. Positions outside of them are errors.
   */
  constructor(store: PageStore, placements: readonly Placement[]) {
    this.#store = store;
    this.#placements = placements;
  }

  /** @throws {RangeError} For a position outside of all placements, as `zero` and `read` do. */
  write(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const placement = this.#placementAt(at + done);
      const size = Math.min(bytes.length - done, placement.at + placement.length - at - done);
      const part = size === bytes.length ? bytes : bytes.subarray(done, done + size);
      this.#store.write(placement.to + at + done - placement.at, part);
      done += size;
    }
  }

  zero(at: number, length: number): void {
    for (let done = 0; done < length; ) {
      const placement = this.#placementAt(at + done);
      const size = Math.min(length - done, placement.at + placement.length - at - done);
      this.#store.zero(placement.to + at + done - placement.at, size);
      done += size;
    }
  }

  read(at: number, target: Uint8Array): void {
    for (let done = 0; done < target.length; ) {
      const placement = this.#placementAt(at + done);
      const size = Math.min(target.length - done, placement.at + placement.length - at - done);
      this.#store.read(placement.to + at + done - placement.at, target.subarray(done, done + size));
      done += size;
    }
  }

  close(): void {}

  #placementAt(at: number): Placement {
    for (const placement of this.#placements) {
      if (at >= placement.at && at < placement.at + placement.length) return placement;
    }
    throw new RangeError(`byte ${at} is outside the stored ranges`);
  }
}

/** Alignment of blocks in a shared store: a page at the end of one block cannot reach into the next. */
const BLOCK_ALIGNMENT_BYTES = 65_536;

/**
 * Let blocks share one store, one after the other.
 *
 * @param store - The store to share. Its creator closes it.
 * @returns A function that returns the part of the next block.
 * @example
 * ```js
 * const store = new SpillingStore(() => temporarySparseFile());
 * const image = new RamImage({ store: shareStore(store) });
 * ```
 */
export function shareStore(store: PageStore): (block: { usedLength: number }) => PageStore {
  let to = 0;
  return ({ usedLength }) => {
    const length = Math.ceil(usedLength / BLOCK_ALIGNMENT_BYTES) * BLOCK_ALIGNMENT_BYTES;
    const placed = new PlacedStore(store, [{ at: 0, length, to }]);
    to += length;
    return placed;
  };
}
