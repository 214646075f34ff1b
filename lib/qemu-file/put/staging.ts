import { allocateBlock } from '../../util/aligned-block.ts';

/*
 * Staging: the block into which small values are copied.
 *
 * Every put compares with one number, `#fastLimit`. It is the block's size while puts can go straight
 * ahead. It is 0 while something must happen first: the batch is empty, the end of its tick has to be
 * scheduled, or puts have stopped. A put that ends below the limit takes one branch. A put that fills the
 * block takes the slow path, because the block must then leave (bench/typed-puts.ts).
 */

const TWO_TO_MINUS_32 = 2 ** -32;

/** Most bytes that are copied in words: `set()` is faster with more (bench/typed-puts.ts). */
const MAX_BYTES_IN_WORDS = 16;

/** A staging block, which is used again after its batch. */
export interface StagingBlock {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /**
   * The views of runs of staged bytes that batches got. Records of the same sizes have their runs in the same places,
   * and a view costs more than all other work on a small run (bench/ram-records.ts).
   */
  readonly runs: Uint8Array[];
  /** Where these begin and end in the block: fields of a typed array take longer to read. */
  readonly runStarts: number[];
  readonly runEnds: number[];
}

const NO_BYTES = new Uint8Array(0);
const NO_BLOCK = blockOf(NO_BYTES);

/** Texts that were put, by their lengths: names of sections and blocks are put again and again. */
const texts: string[] = new Array<string>(256).fill('');
/** These texts as counted strings, with a length byte and zeros up to a whole word, once they were put twice. */
const countedTexts: (DataView | null)[] = new Array<DataView | null>(256).fill(null);

function newBlock(size: number): StagingBlock {
  const { buffer, byteOffset, length } = allocateBlock(size);
  // Not a Buffer: small copies into a Uint8Array are compiled inline.
  return blockOf(new Uint8Array(buffer, byteOffset, length));
}

function blockOf(bytes: Uint8Array): StagingBlock {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return { bytes, view, runs: [], runStarts: [], runEnds: [] };
}

/** Keep the text of this length that was put last as a counted string; return null if it is not ASCII. */
function keepCounted(text: string): DataView | null {
  const bytes = Buffer.from(text, 'utf8');
  if (bytes.length > text.length) return null;
  const kept = new Uint8Array(Math.ceil((1 + bytes.length) / 4) * 4);
  kept[0] = bytes.length;
  kept.set(bytes, 1);
  const counted = new DataView(kept.buffer);
  countedTexts[text.length] = counted;
  return counted;
}

/** Return 4 bytes, the first of which is the lowest. */
function wordAt(bytes: Uint8Array, at: number): number {
  const high = ((bytes[at + 3] as number) << 24) | ((bytes[at + 2] as number) << 16);
  return high | ((bytes[at + 1] as number) << 8) | (bytes[at] as number);
}

function outOfRange(method: string, value: unknown, range: string): RangeError {
  return new RangeError(`${method}: ${String(value)} is not an integer in ${range}`);
}

/** The owner of the staging area, called when a put cannot go straight ahead. */
export interface StagingHost {
  /** Make `bytes` more fit the block and call `openBlock()`; return false if puts have stopped. */
  makeRoom(bytes: number): boolean;
  /** Cut the gathered bytes: the block, or the gather list, is full. */
  cutFull(): void;
}

export class Staging {
  readonly size: number;
  readonly #host: StagingHost;
  #fastLimit = 0;
  #block: StagingBlock = NO_BLOCK;
  #bytes: Uint8Array = NO_BYTES;
  /** Where the next byte goes. */
  #index = 0;
  #view: DataView = NO_BLOCK.view;
  /** Number of runs of this block that have a view. */
  #runCount = 0;
  readonly #spare: StagingBlock[] = [];
  readonly #maxSpare: number;

  /**
   * @param maxSpare - Blocks that are kept for later puts; more are left to the garbage collector. It has to cover
   *   what waits for the backend, because a new block costs more than what is copied into it.
   */
  constructor(size: number, maxSpare: number, host: StagingHost) {
    this.size = size;
    this.#maxSpare = maxSpare;
    this.#host = host;
  }

  /** Bytes in the block. */
  get staged(): number {
    return this.#index;
  }

  /** Bytes that the block can still take. */
  get left(): number {
    return this.size - this.#index;
  }

  /** Whether puts can go straight ahead. */
  get isOpen(): boolean {
    return this.#fastLimit > 0;
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
    let high = 0;
    if (low !== value) {
      if (!Number.isSafeInteger(value) || value < 0) {
        throw outOfRange('putBe64', value, '0…2^53-1 (give a bigint beyond that)');
      }
      high = (value * TWO_TO_MINUS_32) | 0;
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

  /** Put a length byte and ASCII text; return false, with nothing put, if the text is not ASCII or too long. */
  countedAscii(text: string): boolean {
    const length = text.length;
    const start = this.#index;
    const end = start + 1 + length;
    // Whole words are stored, the last one up to 3 bytes too long.
    if (length > 255 || end + 3 >= this.#fastLimit) return false;
    const view = this.#view;
    if (texts[length] === text) {
      const counted = countedTexts[length] ?? keepCounted(text);
      if (counted === null) return false;
      for (let i = 0; i <= length; i += 4) {
        view.setInt32(start + i, counted.getInt32(i, true), true);
      }
    } else {
      texts[length] = text;
      countedTexts[length] = null;
      view.setUint8(start, length);
      for (let i = 0; i < length; i++) {
        const code = text.charCodeAt(i);
        if (code > 0x7f) return false;
        view.setUint8(start + 1 + i, code);
      }
    }
    this.#index = end;
    return true;
  }

  /** Copy bytes; the caller may reuse its memory at once. */
  copy(bytes: Uint8Array): void {
    const { length } = bytes;
    const start = this.#index;
    const end = start + length;
    if (end < this.#fastLimit) {
      this.#index = end;
      if (length < 4 || length > MAX_BYTES_IN_WORDS) this.#bytes.set(bytes, start);
      else this.#copyWords(bytes, start);
      return;
    }
    let from = 0;
    while (from < bytes.length) {
      if (this.#index >= this.#fastLimit && !this.#host.makeRoom(1)) return;
      const chunk = Math.min(bytes.length - from, this.size - this.#index);
      this.#bytes.set(
        from === 0 && chunk === bytes.length ? bytes : bytes.subarray(from, from + chunk),
        this.#index,
      );
      from += chunk;
      this.#advance(this.#index + chunk);
    }
  }

  /** Copy 4 to 16 bytes in words, from the start and from the end: these may overlap, and no loop is faster. */
  #copyWords(bytes: Uint8Array, start: number): void {
    const view = this.#view;
    const last = bytes.length - 4;
    view.setInt32(start, wordAt(bytes, 0), true);
    if (last > 4) {
      view.setInt32(start + 4, wordAt(bytes, 4), true);
      view.setInt32(start + last - 4, wordAt(bytes, last - 4), true);
    }
    view.setInt32(start + last, wordAt(bytes, last), true);
  }

  /** Make `bytes` fit the block in one piece; return false if puts have stopped. */
  fit(bytes: number): boolean {
    return this.#index + bytes <= this.#fastLimit || this.#host.makeRoom(bytes);
  }

  /** Return the staged bytes from `start` on, as a view. */
  viewFrom(start: number): Uint8Array {
    const { bytes, runs, runStarts, runEnds } = this.#block;
    const n = this.#runCount;
    const end = this.#index;
    this.#runCount = n + 1;
    if (runStarts[n] === start && runEnds[n] === end) return runs[n] as Uint8Array;
    const run = new Uint8Array(bytes.buffer, bytes.byteOffset + start, end - start);
    runs[n] = run;
    runStarts[n] = start;
    runEnds[n] = end;
    return run;
  }

  /** Let puts go straight ahead. */
  openBlock(): void {
    if (this.#block === NO_BLOCK) {
      const block = this.#spare.pop() ?? newBlock(this.size);
      this.#block = block;
      this.#bytes = block.bytes;
      this.#view = block.view;
    }
    this.#fastLimit = this.size;
  }

  /** Make the next put ask the host for room. */
  closeBlock(): void {
    this.#fastLimit = 0;
  }

  /** Detach the block, for the batch that holds its bytes; return null if it is empty. */
  takeBlock(): StagingBlock | null {
    this.#fastLimit = 0;
    if (this.#index === 0) return null;
    const block = this.#block;
    this.#block = NO_BLOCK;
    this.#bytes = NO_BYTES;
    this.#index = 0;
    this.#runCount = 0;
    return block;
  }

  /** Keep a detached block for later puts. */
  recycleBlock(block: StagingBlock): void {
    if (this.#spare.length < this.#maxSpare) this.#spare.push(block);
  }

  /** Move the cursor. A full block leaves at once, as in QEMU, and not with the next put. */
  #advance(index: number): void {
    this.#index = index;
    if (index >= this.size) this.#host.cutFull();
  }

  #put8(value: number): void {
    const index = this.#index;
    if (index + 1 >= this.#fastLimit) {
      this.#last8(value);
      return;
    }
    this.#view.setUint8(index, value);
    this.#index = index + 1;
  }

  #last8(value: number): void {
    if (this.#index + 1 > this.#fastLimit && !this.#host.makeRoom(1)) return;
    this.#view.setUint8(this.#index, value);
    this.#advance(this.#index + 1);
  }

  #put16(value: number): void {
    const index = this.#index;
    if (index + 2 >= this.#fastLimit) {
      this.#last16(value);
      return;
    }
    this.#view.setUint16(index, value);
    this.#index = index + 2;
  }

  #last16(value: number): void {
    if (this.#index + 2 > this.#fastLimit && !this.#host.makeRoom(2)) return;
    this.#view.setUint16(this.#index, value);
    this.#advance(this.#index + 2);
  }

  #put32(value: number): void {
    const index = this.#index;
    if (index + 4 >= this.#fastLimit) {
      this.#last32(value);
      return;
    }
    this.#view.setUint32(index, value);
    this.#index = index + 4;
  }

  #last32(value: number): void {
    if (this.#index + 4 > this.#fastLimit && !this.#host.makeRoom(4)) return;
    this.#view.setUint32(this.#index, value);
    this.#advance(this.#index + 4);
  }

  #put64(high: number, low: number): void {
    const index = this.#index;
    if (index + 8 >= this.#fastLimit) {
      this.#last64(high, low);
      return;
    }
    this.#view.setUint32(index, high);
    this.#view.setUint32(index + 4, low);
    this.#index = index + 8;
  }

  #last64(high: number, low: number): void {
    if (this.#index + 8 > this.#fastLimit && !this.#host.makeRoom(8)) return;
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
    const index = this.#index;
    if (index + 8 >= this.#fastLimit) {
      this.#last64Big(value);
      return;
    }
    this.#view.setBigUint64(index, value);
    this.#index = index + 8;
  }

  #last64Big(value: bigint): void {
    if (this.#index + 8 > this.#fastLimit && !this.#host.makeRoom(8)) return;
    this.#view.setBigUint64(this.#index, value);
    this.#advance(this.#index + 8);
  }
}
