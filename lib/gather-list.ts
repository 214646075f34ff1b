import type { Batch } from './batch.ts';

/*
 * The gather list: what has been put and not yet handed to the sender, as buffers in stream order.
 *
 * Small values are stored in a staging block; adjacent ones make one entry, the *open run*, which is
 * closed (made a view) only when a by-reference buffer follows or the batch is cut. `room` is the one
 * thing every put compares with: it is the block's size while puts may go straight ahead, and 0 when
 * something must happen first (the batch is empty and its flush not scheduled yet, or puts have
 * stopped). So the hot path has one branch.
 */

const TWO_TO_MINUS_32 = 2 ** -32;
/** Bits above the lower 32 of the greatest number that is exact. */
const HIGH_BITS = 21;

const NO_BLOCK = Buffer.alloc(0);
const NO_VIEW = new DataView(NO_BLOCK.buffer, 0, 0);

/** Spare staging blocks kept per file; more are left to the garbage collector. */
const SPARE_BLOCKS = 4;

function outOfRange(method: string, value: unknown, range: string): RangeError {
  return new RangeError(`${method}: ${String(value)} is not an integer in ${range}`);
}

export abstract class GatherList {
  protected readonly stagingSize: number;
  protected readonly maxEntries: number;
  /** By-reference buffers up to this size are copied. */
  protected readonly copyLimit: number;
  /** Puts go straight ahead while they end within this; see the top of the file. */
  protected room = 0;

  #block: Buffer = NO_BLOCK;
  #view: DataView = NO_VIEW;
  #index = 0;
  #runStart = 0;
  #referenced = 0;
  #entries: Uint8Array[] = [];
  #releases: (() => void)[] = [];
  /** The last entry, if it is by reference and may grow. */
  #growing: Uint8Array | null = null;
  /** Whether the growing entry has releases: only its like is added to it, as in QEMU. */
  #growingReleases = false;
  readonly #spare: Buffer[] = [];

  constructor(stagingSize: number, maxEntries: number, copyLimit: number) {
    this.stagingSize = stagingSize;
    this.maxEntries = maxEntries;
    this.copyLimit = copyLimit;
  }

  /** Makes `bytes` more fit the staging block; false if puts have stopped. */
  protected abstract makeRoom(bytes: number): boolean;

  /** Whether one more buffer may be queued by reference; false if puts have stopped. */
  protected abstract admit(): boolean;

  /** Called with what was to run once a buffer is done with that was not admitted. */
  protected abstract refused(onRelease: () => void): void;

  /** Called when a batch must leave: the staging block or the list is full. */
  protected abstract cutFull(): void;

  /** Bytes put since the last cut. */
  get gathered(): number {
    return this.#index + this.#referenced;
  }

  /** Whether there is anything to cut, be it only a release. */
  protected get cuttable(): boolean {
    return this.gathered > 0 || this.#releases.length > 0;
  }

  /** Bytes the staging block can still take. */
  protected get stagingLeft(): number {
    return this.stagingSize - this.#index;
  }

  byte(value: number): void {
    if ((value & 0xff) !== value) throw outOfRange('putByte', value, '0…255');
    this.#put8(value);
  }

  sbyte(value: number): void {
    if ((value << 24) >> 24 !== value) throw outOfRange('putSbyte', value, '-128…127');
    this.#put8(value);
  }

  be16(value: number): void {
    if ((value & 0xffff) !== value) throw outOfRange('putBe16', value, '0…65535');
    this.#put16(value);
  }

  sbe16(value: number): void {
    if ((value << 16) >> 16 !== value) throw outOfRange('putSbe16', value, '-32768…32767');
    this.#put16(value);
  }

  be32(value: number): void {
    if (value >>> 0 !== value) throw outOfRange('putBe32', value, '0…2^32-1');
    this.#put32(value);
  }

  sbe32(value: number): void {
    if ((value | 0) !== value) throw outOfRange('putSbe32', value, '-2^31…2^31-1');
    this.#put32(value);
  }

  be64(value: number | bigint): void {
    if (typeof value !== 'number') {
      this.#be64Big(value);
      return;
    }
    const low = value >>> 0;
    const upper = (value - low) * TWO_TO_MINUS_32;
    const high = upper | 0;
    // The upper half of what is negative or no integer is so, too.
    if (high !== upper || high >>> HIGH_BITS !== 0) {
      throw outOfRange('putBe64', value, '0…2^53-1 (give a bigint beyond that)');
    }
    this.#put64(high, low);
  }

  sbe64(value: number | bigint): void {
    if (typeof value === 'bigint') {
      if (BigInt.asIntN(64, value) !== value) throw outOfRange('putSbe64', value, '-2^63…2^63-1');
      this.#put64Big(value);
      return;
    }
    if (!Number.isSafeInteger(value)) {
      throw outOfRange('putSbe64', value, '±(2^53-1) (give a bigint beyond that)');
    }
    const low = value >>> 0;
    this.#put64((value - low) * TWO_TO_MINUS_32, low);
  }

  /** A length byte and ASCII text; false, and nothing put, if it is not ASCII or does not fit straight ahead. */
  countedAscii(text: string): boolean {
    const length = text.length;
    const start = this.#index + 1;
    const end = start + length;
    if (length > 255 || end >= this.room) return false;
    const block = this.#block;
    for (let i = 0; i < length; i++) {
      const code = text.charCodeAt(i);
      if (code > 0x7f) return false;
      block[start + i] = code;
    }
    block[start - 1] = length;
    this.#index = end;
    return true;
  }

  /** Copies bytes into staging; the caller may reuse its memory at once. */
  copy(bytes: Uint8Array): void {
    const end = this.#index + bytes.length;
    if (end < this.room) {
      this.#block.set(bytes, this.#index);
      this.#index = end;
      return;
    }
    let from = 0;
    while (from < bytes.length) {
      if (this.#index >= this.room && !this.makeRoom(1)) return;
      const chunk = Math.min(bytes.length - from, this.stagingSize - this.#index);
      this.#block.set(
        from === 0 && chunk === bytes.length ? bytes : bytes.subarray(from, from + chunk),
        this.#index,
      );
      from += chunk;
      this.#advance(this.#index + chunk);
    }
  }

  /**
   * Queues bytes by reference, or copies them where that is cheaper; `onRelease` runs once the batch
   * that holds them was taken or failed.
   */
  reference(bytes: Uint8Array, onRelease?: () => void): void {
    const length = bytes.length;
    if (length <= this.copyLimit && length > 0) {
      // In one piece, so that it is one batch whose end releases it.
      if (this.#index + length > this.room && !this.makeRoom(length)) {
        if (onRelease !== undefined) this.refused(onRelease);
        return;
      }
      if (onRelease !== undefined) this.#releases.push(onRelease);
      this.#block.set(bytes, this.#index);
      this.#advance(this.#index + length);
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
    const staged = this.#index > 0;
    const batch: Batch = {
      entries: this.#entries,
      bytes: this.#index + this.#referenced,
      releases: this.#releases,
      block: staged ? this.#block : null,
    };
    if (staged) {
      this.#block = NO_BLOCK;
      this.#index = 0;
      this.#runStart = 0;
    }
    this.#entries = [];
    this.#releases = [];
    this.#growing = null;
    this.#referenced = 0;
    this.room = 0;
    return batch;
  }

  /** Gives a sent batch's staging block back for later puts. */
  protected recycle(batch: Batch): void {
    if (batch.block !== null && this.#spare.length < SPARE_BLOCKS) this.#spare.push(batch.block);
    batch.block = null;
  }

  /** Lets puts go straight ahead. */
  protected open(): void {
    if (this.#block === NO_BLOCK) {
      this.#block = this.#spare.pop() ?? Buffer.allocUnsafeSlow(this.stagingSize);
      this.#view = new DataView(this.#block.buffer);
    }
    this.room = this.stagingSize;
  }

  /** Moves the staging cursor and lets a full block leave, as QEMU does, without waiting for the next put. */
  #advance(index: number): void {
    this.#index = index;
    if (index >= this.stagingSize) this.cutFull();
  }

  /*
   * A put that stays within the room and does not fill the block takes one branch; `end === room` is
   * left to the slow path, as the block must then be cut (bench/typed-puts.ts).
   */

  #put8(value: number): void {
    const index = this.#index;
    if (index + 1 >= this.room) {
      this.#last8(value);
      return;
    }
    this.#view.setUint8(index, value);
    this.#index = index + 1;
  }

  #last8(value: number): void {
    if (this.#index + 1 > this.room && !this.makeRoom(1)) return;
    this.#view.setUint8(this.#index, value);
    this.#advance(this.#index + 1);
  }

  #put16(value: number): void {
    const index = this.#index;
    if (index + 2 >= this.room) {
      this.#last16(value);
      return;
    }
    this.#view.setUint16(index, value);
    this.#index = index + 2;
  }

  #last16(value: number): void {
    if (this.#index + 2 > this.room && !this.makeRoom(2)) return;
    this.#view.setUint16(this.#index, value);
    this.#advance(this.#index + 2);
  }

  #put32(value: number): void {
    const index = this.#index;
    if (index + 4 >= this.room) {
      this.#last32(value);
      return;
    }
    this.#view.setUint32(index, value);
    this.#index = index + 4;
  }

  #last32(value: number): void {
    if (this.#index + 4 > this.room && !this.makeRoom(4)) return;
    this.#view.setUint32(this.#index, value);
    this.#advance(this.#index + 4);
  }

  #put64(high: number, low: number): void {
    const index = this.#index;
    if (index + 8 >= this.room) {
      this.#last64(high, low);
      return;
    }
    this.#view.setUint32(index, high);
    this.#view.setUint32(index + 4, low);
    this.#index = index + 8;
  }

  #last64(high: number, low: number): void {
    if (this.#index + 8 > this.room && !this.makeRoom(8)) return;
    const index = this.#index;
    this.#view.setUint32(index, high);
    this.#view.setUint32(index + 4, low);
    this.#advance(index + 8);
  }

  #be64Big(value: bigint): void {
    if (typeof value !== 'bigint' || BigInt.asUintN(64, value) !== value) {
      throw outOfRange('putBe64', value, '0…2^53-1, or a bigint in 0…2^64-1');
    }
    this.#put64Big(value);
  }

  #put64Big(value: bigint): void {
    if (this.#index + 8 > this.room && !this.makeRoom(8)) return;
    this.#view.setBigUint64(this.#index, value);
    this.#advance(this.#index + 8);
  }

  #closeRun(): void {
    if (this.#index > this.#runStart) {
      this.#entries.push(this.#block.subarray(this.#runStart, this.#index));
      this.#runStart = this.#index;
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
