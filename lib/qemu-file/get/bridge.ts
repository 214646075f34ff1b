import type { Fifo } from '../../util/fifo.ts';

const EMPTY: Uint8Array = new Uint8Array(0);
const EMPTY_VIEW = new DataView(EMPTY.buffer);

/** Joined values are carved out of blocks of this size: one of 4 KiB alone costs twice as much (bench/read-pages.ts). */
const BLOCK_BYTES = 65536;

/** Where values that span buffers are joined. Each value has memory of its own, because views of it live on. */
export class Bridge {
  bytes: Uint8Array = EMPTY;
  view: DataView = EMPTY_VIEW;
  /** Where in `bytes` the last joined value begins. */
  start = 0;
  #used = 0;

  /**
   * Join `head` and the first bytes of `next` to `size` bytes at `start`.
   *
   * @returns The number of bytes removed from `next`.
   */
  join(size: number, head: Uint8Array, next: Fifo<Uint8Array>): number {
    if (this.bytes.length - this.#used < size) {
      const block = Buffer.allocUnsafeSlow(Math.max(size, BLOCK_BYTES));
      this.bytes = block;
      this.view = new DataView(block.buffer);
      this.#used = 0;
    }
    const { bytes } = this;
    const start = this.#used;
    this.start = start;
    this.#used = start + size;
    bytes.set(head, start);
    let have = head.length;
    while (have < size) {
      const chunk = next.first as Uint8Array;
      const take = Math.min(size - have, chunk.length);
      bytes.set(take === chunk.length ? chunk : chunk.subarray(0, take), start + have);
      have += take;
      if (take === chunk.length) next.shift();
      else next.first = chunk.subarray(take);
    }
    return size - head.length;
  }

  /** Release a block that one large value filled. */
  releaseLarge(): void {
    if (this.bytes.length <= BLOCK_BYTES) return;
    this.bytes = EMPTY;
    this.view = EMPTY_VIEW;
    this.#used = 0;
  }
}
