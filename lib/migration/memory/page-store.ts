import { QemuFileError } from '../../contract/errors.ts';
import { keysWithin } from './page-set.ts';

/** Bytes that `MemoryPageStore` allocates at once: few, lest pages far apart cost much more than they hold. */
const CHUNK = 16_384;

/** Bytes that are held in memory before a file is used. */
const MEMORY_LIMIT = 67_108_864;

/**
 * Bytes at positions below 2^53; all are zero until they are written. Everything happens at once, without
 * promises, as page visitors do.
 */
export interface PageStore {
  /** Stores bytes; they are the caller's again when this returns. */
  write(at: number, bytes: Uint8Array): void;
  /** Makes a range zeros, at no cost where nothing was written. */
  zero(at: number, length: number): void;
  /** Fills `target` with what is stored from `at` on. */
  read(at: number, target: Uint8Array): void;
  /** Frees what the store holds; it is not to be used afterwards. May be called again. */
  close(): void;
}

/** A store in memory, which takes room only near what was written. */
export class MemoryPageStore implements PageStore {
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #limit: number;

  /** @param limit - Most bytes that it may hold, rounded up to its own units. Default: any number. */
  constructor(limit: number = Number.POSITIVE_INFINITY) {
    this.#limit = limit;
  }

  /** Bytes of memory it holds. */
  get allocated(): number {
    return this.#chunks.size * CHUNK;
  }

  /** Tells whether a write of this many bytes may pass the limit. */
  mayExceed(size: number): boolean {
    return this.allocated + size + 2 * CHUNK > this.#limit;
  }

  /** @throws {QemuFileError} `ENOMEM` past the limit; what had been stored stays. */
  write(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const key = Math.floor((at + done) / CHUNK);
      const start = at + done - key * CHUNK;
      const size = Math.min(bytes.length - done, CHUNK - start);
      const chunk = this.#chunks.get(key) ?? this.#grow(key);
      chunk.set(size === bytes.length ? bytes : bytes.subarray(done, done + size), start);
      done += size;
    }
  }

  zero(at: number, length: number): void {
    if (length <= 0) return;
    const high = Math.floor((at + length - 1) / CHUNK);
    for (const key of keysWithin(this.#chunks, Math.floor(at / CHUNK), high)) {
      const start = Math.max(at - key * CHUNK, 0);
      const end = Math.min(at + length - key * CHUNK, CHUNK);
      if (end - start === CHUNK) this.#chunks.delete(key);
      else this.#chunks.get(key)?.fill(0, start, end);
    }
  }

  read(at: number, target: Uint8Array): void {
    for (let done = 0; done < target.length; ) {
      const key = Math.floor((at + done) / CHUNK);
      const start = at + done - key * CHUNK;
      const size = Math.min(target.length - done, CHUNK - start);
      const chunk = this.#chunks.get(key);
      if (chunk === undefined) target.fill(0, done, done + size);
      else target.set(chunk.subarray(start, start + size), done);
      done += size;
    }
  }

  close(): void {
    this.#chunks.clear();
  }

  /** Puts all it holds into another store. */
  copyTo(store: PageStore): void {
    const keys = [...this.#chunks.keys()].sort((a, b) => a - b);
    for (const key of keys) store.write(key * CHUNK, this.#chunks.get(key) as Uint8Array);
  }

  #grow(key: number): Uint8Array {
    if (this.allocated + CHUNK > this.#limit) {
      const reason = `guest memory takes more than the ${this.#limit} bytes that may be held`;
      throw new QemuFileError('ENOMEM', reason);
    }
    const chunk = new Uint8Array(CHUNK);
    this.#chunks.set(key, chunk);
    return chunk;
  }
}

/** A store that begins in memory and moves to another one, as a whole, when it grows past a limit. */
export class SpillingStore implements PageStore {
  readonly #memory: MemoryPageStore;
  readonly #makeStore: () => PageStore;
  #store: PageStore;

  /**
   * @param makeStore - Makes the store to move to, when it is needed: a temporary file.
   * @param limit - Bytes of memory that are not passed. Default 64 MiB.
   */
  constructor(makeStore: () => PageStore, limit: number = MEMORY_LIMIT) {
    this.#makeStore = makeStore;
    this.#memory = new MemoryPageStore(limit);
    this.#store = this.#memory;
  }

  /** True once it has moved. */
  get spilled(): boolean {
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

/** A range of a `PlacedStore`, and where it lies in the store underneath. */
export interface Piece {
  /** First byte of the range. */
  readonly at: number;
  readonly length: number;
  /** Its position in the store underneath. */
  readonly to: number;
}

/**
 * Part of another store under positions of its own: one block among several in one file, or a block whose
 * parts lie apart.
 */
export class PlacedStore implements PageStore {
  readonly #store: PageStore;
  readonly #pieces: readonly Piece[];

  /**
   * @param store - Stays its maker's: `close()` here leaves it open.
   * @param pieces - A handful; what lies in none of them cannot be touched.
   */
  constructor(store: PageStore, pieces: readonly Piece[]) {
    this.#store = store;
    this.#pieces = pieces;
  }

  /** @throws {RangeError} Where no piece is, as `zero` and `read` do. */
  write(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const piece = this.#pieceAt(at + done);
      const size = Math.min(bytes.length - done, piece.at + piece.length - at - done);
      const part = size === bytes.length ? bytes : bytes.subarray(done, done + size);
      this.#store.write(piece.to + at + done - piece.at, part);
      done += size;
    }
  }

  zero(at: number, length: number): void {
    for (let done = 0; done < length; ) {
      const piece = this.#pieceAt(at + done);
      const size = Math.min(length - done, piece.at + piece.length - at - done);
      this.#store.zero(piece.to + at + done - piece.at, size);
      done += size;
    }
  }

  read(at: number, target: Uint8Array): void {
    for (let done = 0; done < target.length; ) {
      const piece = this.#pieceAt(at + done);
      const size = Math.min(target.length - done, piece.at + piece.length - at - done);
      this.#store.read(piece.to + at + done - piece.at, target.subarray(done, done + size));
      done += size;
    }
  }

  close(): void {}

  #pieceAt(at: number): Piece {
    for (const piece of this.#pieces) {
      if (at >= piece.at && at < piece.at + piece.length) return piece;
    }
    throw new RangeError(`byte ${at} is outside of what is stored`);
  }
}

/** Room between blocks in one store, so that a page at the end of one cannot reach into the next. */
const BLOCK_ALIGNMENT = 65_536;

/**
 * Lets blocks share one store, one after the other; gives a function that makes the next block's part.
 *
 * @param store - To be closed by whoever made it.
 * @example
 * ```js
 * const store = new SpillingStore(() => temporarySparseFile());
 * const image = new RamImage({ store: shareStore(store) });
 * ```
 */
export function shareStore(store: PageStore): (block: { usedLength: number }) => PageStore {
  let to = 0;
  return ({ usedLength }) => {
    const length = Math.ceil(usedLength / BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT;
    const placed = new PlacedStore(store, [{ at: 0, length, to }]);
    to += length;
    return placed;
  };
}
