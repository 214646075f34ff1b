import type { Batch } from './batch.ts';
import { Staging } from './staging.ts';

/*
 * The gather list: what has been put and not yet handed to the sender, as buffers in stream order.
 *
 * Adjacent staged values make one entry, the *open run*, which is closed (made a view) only when a
 * by-reference buffer follows or the batch is cut.
 */

export abstract class GatherList extends Staging {
  protected readonly maxEntries: number;
  /** By-reference buffers up to this size are copied. */
  protected readonly copyLimit: number;

  #runStart = 0;
  #referenced = 0;
  #entries: Uint8Array[] = [];
  #releases: (() => void)[] = [];
  /** The last entry, if it is by reference and may grow. */
  #growing: Uint8Array | null = null;
  /** Whether the growing entry has releases: only its like is added to it, as in QEMU. */
  #growingReleases = false;

  constructor(stagingSize: number, maxEntries: number, copyLimit: number) {
    super(stagingSize);
    this.maxEntries = maxEntries;
    this.copyLimit = copyLimit;
  }

  /** Whether one more buffer may be queued by reference; false if puts have stopped. */
  protected abstract admit(): boolean;

  /** Called with what was to run once a buffer is done with that was not admitted. */
  protected abstract refused(onRelease: () => void): void;

  /** Bytes put since the last cut. */
  get gathered(): number {
    return this.index + this.#referenced;
  }

  /** Whether there is anything to cut, be it only a release. */
  protected get cuttable(): boolean {
    return this.gathered > 0 || this.#releases.length > 0;
  }

  /**
   * Queues bytes by reference, or copies them where that is cheaper; `onRelease` runs once the batch
   * that holds them was taken or failed.
   */
  reference(bytes: Uint8Array, onRelease?: () => void): void {
    const length = bytes.length;
    if (length <= this.copyLimit && length > 0) {
      // In one piece, so that it is one batch whose end releases it.
      if (this.index + length > this.room && !this.makeRoom(length)) {
        if (onRelease !== undefined) this.refused(onRelease);
        return;
      }
      if (onRelease !== undefined) this.#releases.push(onRelease);
      this.block.set(bytes, this.index);
      this.advance(this.index + length);
      return;
    }
    if (length > 0) {
      this.#closeRun();
      // The staged bytes before this buffer may have made the last entry that the list can have.
      if (this.#entries.length >= this.maxEntries) this.cutFull();
    }
    if (!this.admit()) {
      if (onRelease !== undefined) this.refused(onRelease);
      return;
    }
    if (onRelease !== undefined) this.#releases.push(onRelease);
    if (length === 0) return;
    this.#referenced += length;
    const releases = onRelease !== undefined;
    if (releases !== this.#growingReleases || !this.#grow(bytes)) {
      this.#growing = bytes;
      this.#growingReleases = releases;
      this.#entries.push(bytes);
      if (this.#entries.length >= this.maxEntries) this.cutFull();
    }
  }

  /** Takes everything gathered as one batch and starts an empty one; puts must make room again. */
  protected cut(): Batch {
    this.#closeRun();
    const batch: Batch = {
      entries: this.#entries,
      bytes: this.gathered,
      releases: this.#releases,
      block: this.takeBlock(),
    };
    this.#runStart = 0;
    this.#entries = [];
    this.#releases = [];
    this.#growing = null;
    this.#referenced = 0;
    return batch;
  }

  /** Gives a sent batch's staging block back for later puts. */
  protected recycle(batch: Batch): void {
    if (batch.block !== null) this.giveBlock(batch.block);
    batch.block = null;
  }

  #closeRun(): void {
    if (this.index > this.#runStart) {
      const length = this.index - this.#runStart;
      // Half the price of a Buffer's subarray (bench/ram-records.ts).
      const { buffer, byteOffset } = this.block;
      this.#entries.push(new Uint8Array(buffer, byteOffset + this.#runStart, length));
      this.#runStart = this.index;
      this.#growing = null;
    }
  }

  /** Lets the last entry grow over a buffer that begins exactly where it ends. */
  #grow(bytes: Uint8Array): boolean {
    const last = this.#growing;
    if (
      last === null ||
      last.buffer !== bytes.buffer ||
      last.byteOffset + last.byteLength !== bytes.byteOffset
    ) {
      return false;
    }
    const grown = new Uint8Array(last.buffer, last.byteOffset, last.byteLength + bytes.byteLength);
    this.#entries[this.#entries.length - 1] = grown;
    this.#growing = grown;
    return true;
  }
}
