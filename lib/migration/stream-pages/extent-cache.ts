import { allocateBlock } from '../../util/aligned-block.ts';
import type { PositionedReads } from './positioned-reads.ts';

/** Bytes of an extent: the unit in which a stream is read and its digests are kept. */
export const EXTENT_BYTES = 262_144;

/** Extents that are kept: 16 MiB. */
const MAX_EXTENTS = 64;

/** A part of the stream, of `EXTENT_BYTES` or up to its end. */
export interface Extent {
  readonly index: number;
  /** The bytes; null while they are read. */
  bytes: Buffer | null;
  /** Settles when the bytes are there. */
  reading: Promise<void> | null;
  /** Number of callers that need the bytes, which must not be reused before they release them. */
  users: number;
}

/** Reads a stream in extents and keeps the last ones, for all who read from the same saved guest. */
export class ExtentCache {
  readonly #reads: PositionedReads;
  readonly #check: ((index: number, bytes: Uint8Array) => void) | null;
  readonly #extents = new Map<number, Extent>();
  readonly #free: Buffer[] = [];

  /**
   * @param reads - The stream.
   * @param check - Called with each extent that was read; throws if its bytes are not the right ones.
   */
  constructor(
    reads: PositionedReads,
    check: ((index: number, bytes: Uint8Array) => void) | null = null,
  ) {
    this.#reads = reads;
    this.#check = check;
  }

  /**
   * Return an extent, which is being read if its `bytes` are null. Its user calls `release` in the end.
   *
   * @param index - Number of the extent in the stream.
   */
  use(index: number): Extent {
    let extent = this.#extents.get(index);
    if (extent === undefined) {
      extent = this.#start(index);
      // After two extents in a row a third one is likely.
      const next = index + 1;
      const isSequence = this.#extents.has(index - 1) && !this.#extents.has(next);
      if (isSequence && next * EXTENT_BYTES < this.#reads.size) this.#start(next);
    } else {
      this.#extents.delete(index);
      this.#extents.set(index, extent);
    }
    extent.users += 1;
    return extent;
  }

  /**
   * Read an extent without waiting, if it is not there.
   *
   * @returns Whether it is there.
   * @throws {QemuFileError} The error of the read or of the check.
   */
  fillNow(index: number): boolean {
    const known = this.#extents.get(index);
    if (known !== undefined) return known.bytes !== null;
    const bytes = this.#take(index);
    if (!this.#reads.readNow(bytes, index * EXTENT_BYTES)) {
      this.#keep(bytes);
      return false;
    }
    this.#check?.(index, bytes);
    this.#extents.set(index, { index, bytes, reading: null, users: 0 });
    return true;
  }

  /** Let the bytes of an extent be reused. */
  release(extent: Extent): void {
    extent.users -= 1;
  }

  #start(index: number): Extent {
    const bytes = this.#take(index);
    const extent: Extent = { index, bytes: null, reading: null, users: 0 };
    extent.reading = this.#reads.read(bytes, index * EXTENT_BYTES).then(() => {
      this.#check?.(index, bytes);
      extent.bytes = bytes;
      extent.reading = null;
    });
    // A later use reads it again; who waits now gets the error.
    extent.reading.catch(() => {
      if (this.#extents.get(index) === extent) this.#extents.delete(index);
    });
    this.#extents.set(index, extent);
    return extent;
  }

  /** Return memory for the bytes of an extent. */
  #take(index: number): Buffer {
    this.#evict();
    const block = this.#free.pop() ?? allocateBlock(EXTENT_BYTES);
    const left = this.#reads.size - index * EXTENT_BYTES;
    return block.subarray(0, Math.max(0, Math.min(EXTENT_BYTES, left)));
  }

  #keep(bytes: Buffer): void {
    if (bytes.length === EXTENT_BYTES) this.#free.push(bytes);
  }

  /** Make room for an extent: drop the one that was not used for the longest time. */
  #evict(): void {
    if (this.#extents.size < MAX_EXTENTS) return;
    for (const [index, { users, bytes }] of this.#extents) {
      if (users > 0 || bytes === null) continue;
      this.#extents.delete(index);
      this.#keep(bytes);
      return;
    }
  }
}
