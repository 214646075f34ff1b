import { allocateBlock } from '../../util/aligned-block.ts';

/*
 * The memory that the backend reads into: one current block at a time. A block whose bytes a reader may keep
 * is shared, and is not used again. A block that a transfer checked out comes back.
 */

const EMPTY = new Uint8Array(0);

/** Smallest free part of the current block, as a fraction of its size, that is offered to the backend. */
const MIN_FREE = 0.25;

/**
 * Bytes of blocks kept for reuse; more are left to the garbage collector. A sink returns all that it took up to
 * its high-water mark at once, which is 4 MiB for a file, and 16 MiB where `convert` writes one.
 */
const MAX_SPARE_BYTES = 20 * 1024 * 1024;

export class ReadBlocks {
  /** The block that the backend fills. */
  current: Uint8Array = EMPTY;
  /** Bytes of the current block that are in use, from its start. */
  used = 0;
  /** Whether a reader may keep views of the current block. */
  isShared = false;
  #size: number;
  readonly #spare: Uint8Array[] = [];
  readonly #checkedOut: Map<ArrayBufferLike, Uint8Array> = new Map();

  constructor(size: number) {
    this.#size = size;
  }

  /** Size of a new block in bytes. */
  get size(): number {
    return this.#size;
  }

  /** Whether the current block has too little free space to offer it to the backend. */
  get isLow(): boolean {
    return this.current.length - this.used < this.#size * MIN_FREE;
  }

  /** Make new blocks at least `size` bytes large. */
  enlarge(size: number): void {
    this.#size = Math.max(this.#size, size);
  }

  /** Begin a new block. */
  renew(): void {
    this.current = this.#spare.pop() ?? allocateBlock(this.#size);
    this.used = 0;
    this.isShared = false;
  }

  /** Hand out the current block until `checkIn()`. */
  checkOut(): void {
    this.#checkedOut.set(this.current.buffer, this.current);
    this.current = EMPTY;
  }

  /** Take a block back, by a view of it. Other memory is ignored. */
  checkIn(chunk: Uint8Array): void {
    const block = this.#checkedOut.get(chunk.buffer);
    if (block === undefined) return;
    this.#checkedOut.delete(chunk.buffer);
    if ((this.#spare.length + 1) * this.#size <= MAX_SPARE_BYTES) this.#spare.push(block);
  }
}
