import { allocateBlock } from '../../util/aligned-block.ts';

/*
 * Staging: the block into which small values are copied.
 *
 * `room` is the one thing every put compares with: it is the block's size while puts may go straight
 * ahead, and 0 when something must happen first (the batch is empty and its flush not scheduled yet, or
 * puts have stopped). A put that stays within the room and does not fill the block takes one branch;
 * `end === room` is left to the slow path, as the block must then leave (bench/typed-puts.ts).
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

export abstract class Staging {
  protected readonly stagingSize: number;
  /** Puts go straight ahead while they end within this; see the top of the file. */
  protected room = 0;
  protected block: Buffer = NO_BLOCK;
  /** Where the next byte goes. */
  protected index = 0;
  #view: DataView = NO_VIEW;
  readonly #spare: Buffer[] = [];

  constructor(stagingSize: number) {
    this.stagingSize = stagingSize;
  }

  /** Makes `bytes` more fit the block; false if puts have stopped. */
  protected abstract makeRoom(bytes: number): boolean;

  /** Called when what was put must leave: the block is full. */
  protected abstract cutFull(): void;

  /** Bytes the block can still take. */
  protected get stagingLeft(): number {
    return this.stagingSize - this.index;
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
    const start = this.index + 1;
    const end = start + length;
    if (length > 255 || end >= this.room) return false;
    const block = this.block;
    for (let i = 0; i < length; i++) {
      const code = text.charCodeAt(i);
      if (code > 0x7f) return false;
      block[start + i] = code;
    }
    block[start - 1] = length;
    this.index = end;
    return true;
  }

  /** Copies bytes into staging; the caller may reuse its memory at once. */
  copy(bytes: Uint8Array): void {
    const end = this.index + bytes.length;
    if (end < this.room) {
      this.block.set(bytes, this.index);
      this.index = end;
      return;
    }
    let from = 0;
    while (from < bytes.length) {
      if (this.index >= this.room && !this.makeRoom(1)) return;
      const chunk = Math.min(bytes.length - from, this.stagingSize - this.index);
      this.block.set(
        from === 0 && chunk === bytes.length ? bytes : bytes.subarray(from, from + chunk),
        this.index,
      );
      from += chunk;
      this.advance(this.index + chunk);
    }
  }

  /** Lets puts go straight ahead. */
  protected open(): void {
    if (this.block === NO_BLOCK) {
      const block = this.#spare.pop() ?? allocateBlock(this.stagingSize);
      this.block = block;
      this.#view = new DataView(block.buffer, block.byteOffset, block.length);
    }
    this.room = this.stagingSize;
  }

  /** Takes the block out, for the batch that holds its bytes; null if there are none. */
  protected takeBlock(): Buffer | null {
    this.room = 0;
    if (this.index === 0) return null;
    const block = this.block;
    this.block = NO_BLOCK;
    this.index = 0;
    return block;
  }

  /** Gives a block back for later puts. */
  protected giveBlock(block: Buffer): void {
    if (this.#spare.length < SPARE_BLOCKS) this.#spare.push(block);
  }

  /** Moves the staging cursor and lets a full block leave, as QEMU does, without waiting for the next put. */
  protected advance(index: number): void {
    this.index = index;
    if (index >= this.stagingSize) this.cutFull();
  }

  #put8(value: number): void {
    const index = this.index;
    if (index + 1 >= this.room) {
      this.#last8(value);
      return;
    }
    this.#view.setUint8(index, value);
    this.index = index + 1;
  }

  #last8(value: number): void {
    if (this.index + 1 > this.room && !this.makeRoom(1)) return;
    this.#view.setUint8(this.index, value);
    this.advance(this.index + 1);
  }

  #put16(value: number): void {
    const index = this.index;
    if (index + 2 >= this.room) {
      this.#last16(value);
      return;
    }
    this.#view.setUint16(index, value);
    this.index = index + 2;
  }

  #last16(value: number): void {
    if (this.index + 2 > this.room && !this.makeRoom(2)) return;
    this.#view.setUint16(this.index, value);
    this.advance(this.index + 2);
  }

  #put32(value: number): void {
    const index = this.index;
    if (index + 4 >= this.room) {
      this.#last32(value);
      return;
    }
    this.#view.setUint32(index, value);
    this.index = index + 4;
  }

  #last32(value: number): void {
    if (this.index + 4 > this.room && !this.makeRoom(4)) return;
    this.#view.setUint32(this.index, value);
    this.advance(this.index + 4);
  }

  #put64(high: number, low: number): void {
    const index = this.index;
    if (index + 8 >= this.room) {
      this.#last64(high, low);
      return;
    }
    this.#view.setUint32(index, high);
    this.#view.setUint32(index + 4, low);
    this.index = index + 8;
  }

  #last64(high: number, low: number): void {
    if (this.index + 8 > this.room && !this.makeRoom(8)) return;
    const index = this.index;
    this.#view.setUint32(index, high);
    this.#view.setUint32(index + 4, low);
    this.advance(index + 8);
  }

  #be64Big(value: bigint): void {
    if (typeof value !== 'bigint' || BigInt.asUintN(64, value) !== value) {
      throw outOfRange('putBe64', value, '0…2^53-1, or a bigint in 0…2^64-1');
    }
    this.#put64Big(value);
  }

  #put64Big(value: bigint): void {
    if (this.index + 8 > this.room && !this.makeRoom(8)) return;
    this.#view.setBigUint64(this.index, value);
    this.advance(this.index + 8);
  }
}
