import { allocateBlock } from '../../util/aligned-block.ts';
import { Fifo } from '../../util/fifo.ts';

/*
 * The look-ahead: bytes that came from the backend and have not been consumed.
 *
 *   window (start…end of one buffer) ─ then ─ next[0], next[1], …
 *
 * Typed gets read from the window without a copy. When a value spans two buffers, `contiguous` copies
 * just that value into a bridge. Views of our own block that others may keep are marked with `lend`;
 * a block nobody keeps is used again, with the unread bytes moved to its front, as QEMU does.
 */

const EMPTY = new Uint8Array(0);
const EMPTY_VIEW = new DataView(EMPTY.buffer);
const TWO_32 = 0x1_0000_0000;

/** Least free space in the block, as a fraction of its size, for which `getBuffer` is asked. */
const MIN_ROOM = 0.25;

/** Most unread bytes, as a fraction of the block's size, that are moved into it to lie before the next. */
const MAX_MOVED = 0.125;

/** Blocks kept for use after a loan; more are left to the garbage collector. */
const SPARE_BLOCKS = 8;

/** Bridges are carved out of blocks of this size: one of 4 KiB alone costs twice as much (bench/read-pages.ts). */
const BRIDGE_SIZE = 65536;

export abstract class LookAhead {
  #window: Uint8Array = EMPTY;
  #view: DataView = EMPTY_VIEW;
  #start = 0;
  #end = 0;
  readonly #next: Fifo<Uint8Array> = new Fifo();
  #nextBytes = 0;

  /** Where values are put together that span buffers; each has a part of its own, as views of it live on. */
  #bridge: Uint8Array = EMPTY;
  #bridgeView: DataView = EMPTY_VIEW;
  #bridgeUsed = 0;

  #blockSize: number;
  #block: Uint8Array = EMPTY;
  #blockUsed = 0;
  #blockLent = false;
  readonly #spare: Uint8Array[] = [];
  /** Blocks that somebody else has for now. */
  readonly #loans: Map<ArrayBufferLike, Uint8Array> = new Map();
  /** Whether others may hold bytes that come before the window: then nothing may enter the window. */
  #borrowed = false;

  constructor(blockSize: number) {
    this.#blockSize = blockSize;
  }

  /** Makes `size` bytes contiguous in the window, or throws. Called when the window is too short. */
  protected abstract demand(size: number, operation: string): void;

  /** Bytes that can be had without asking the backend. */
  get available(): number {
    return this.#end - this.#start + this.#nextBytes;
  }

  byte(): number {
    if (this.#start + 1 > this.#end) this.demand(1, 'getByte');
    const at = this.#start;
    this.#start = at + 1;
    return this.#view.getUint8(at);
  }

  sbyte(): number {
    if (this.#start + 1 > this.#end) this.demand(1, 'getSbyte');
    const at = this.#start;
    this.#start = at + 1;
    return this.#view.getInt8(at);
  }

  be16(): number {
    if (this.#start + 2 > this.#end) this.demand(2, 'getBe16');
    const at = this.#start;
    this.#start = at + 2;
    return this.#view.getUint16(at);
  }

  sbe16(): number {
    if (this.#start + 2 > this.#end) this.demand(2, 'getSbe16');
    const at = this.#start;
    this.#start = at + 2;
    return this.#view.getInt16(at);
  }

  be32(): number {
    if (this.#start + 4 > this.#end) this.demand(4, 'getBe32');
    const at = this.#start;
    this.#start = at + 4;
    return this.#view.getUint32(at);
  }

  sbe32(): number {
    if (this.#start + 4 > this.#end) this.demand(4, 'getSbe32');
    const at = this.#start;
    this.#start = at + 4;
    return this.#view.getInt32(at);
  }

  /** As a number; a value beyond 2^53-1 throws a RangeError and is not consumed. */
  be64(): number {
    if (this.#start + 8 > this.#end) this.demand(8, 'getBe64');
    const at = this.#start;
    const high = this.#view.getUint32(at);
    if (high > 0x1f_ffff) throw this.#tooLarge('getBe64', this.#view.getBigUint64(at));
    this.#start = at + 8;
    return high * TWO_32 + this.#view.getUint32(at + 4);
  }

  /** As a number; a value beyond ±(2^53-1) throws a RangeError and is not consumed. */
  sbe64(): number {
    if (this.#start + 8 > this.#end) this.demand(8, 'getSbe64');
    const at = this.#start;
    const value = this.#view.getInt32(at) * TWO_32 + this.#view.getUint32(at + 4);
    if (!Number.isSafeInteger(value)) throw this.#tooLarge('getSbe64', this.#view.getBigInt64(at));
    this.#start = at + 8;
    return value;
  }

  be64Big(): bigint {
    if (this.#start + 8 > this.#end) this.demand(8, 'getBe64Big');
    const at = this.#start;
    this.#start = at + 8;
    return this.#view.getBigUint64(at);
  }

  sbe64Big(): bigint {
    if (this.#start + 8 > this.#end) this.demand(8, 'getSbe64Big');
    const at = this.#start;
    this.#start = at + 8;
    return this.#view.getBigInt64(at);
  }

  /** The next `size` bytes as a view, consumed; valid until more is read from the backend. */
  inPlace(size: number, operation: string): Uint8Array {
    if (this.#start + size > this.#end) this.demand(size, operation);
    const at = this.#start;
    this.#start = at + size;
    // Half the price of a Buffer's subarray (bench/read-pages.ts).
    const window = this.#window;
    return new Uint8Array(window.buffer, window.byteOffset + at, size);
  }

  /** Up to `size` available bytes from `offset` on, as a view, not consumed. */
  protected peekAvailable(size: number, offset: number): Uint8Array {
    const reach = Math.min(this.available, offset + size);
    if (reach <= offset) return EMPTY;
    this.contiguous(reach);
    return this.#window.subarray(this.#start + offset, this.#start + reach);
  }

  /** Copies available bytes out, consumed; answers how many. */
  protected copyOut(target: Uint8Array): number {
    let copied = 0;
    while (copied < target.length && this.available > 0) {
      this.contiguous(1);
      const take = Math.min(target.length - copied, this.#end - this.#start);
      target.set(this.#window.subarray(this.#start, this.#start + take), copied);
      this.#start += take;
      copied += take;
    }
    return copied;
  }

  /** Drops up to `size` available bytes; answers how many. */
  protected drop(size: number): number {
    let dropped = 0;
    while (dropped < size && this.available > 0) {
      this.contiguous(1);
      const take = Math.min(size - dropped, this.#end - this.#start);
      this.#start += take;
      dropped += take;
    }
    return dropped;
  }

  /** Drops everything. */
  protected clear(): void {
    this.#loadWindow(EMPTY);
    this.#next.clear();
    this.#nextBytes = 0;
  }

  /** Makes `size` of the available bytes contiguous at the start of the window. */
  protected contiguous(size: number): void {
    let have = this.#end - this.#start;
    if (have >= size) return;
    if (have === 0) {
      const first = this.#next.shift() as Uint8Array;
      this.#nextBytes -= first.length;
      this.#loadWindow(first);
      have = first.length;
      if (have >= size) return;
    }
    let bridge = this.#bridge;
    let at = this.#bridgeUsed;
    if (bridge.length - at < size) {
      bridge = Buffer.allocUnsafeSlow(Math.max(size, BRIDGE_SIZE));
      at = 0;
    }
    bridge.set(this.#window.subarray(this.#start, this.#end), at);
    while (have < size) {
      const chunk = this.#next.first as Uint8Array;
      const take = Math.min(size - have, chunk.length);
      bridge.set(take === chunk.length ? chunk : chunk.subarray(0, take), at + have);
      have += take;
      this.#nextBytes -= take;
      if (take === chunk.length) this.#next.shift();
      else this.#next.first = chunk.subarray(take);
    }
    if (size > BRIDGE_SIZE) {
      this.#loadWindow(bridge);
      return;
    }
    if (bridge !== this.#bridge) this.#bridgeView = new DataView(bridge.buffer);
    this.#bridge = bridge;
    this.#bridgeUsed = at + size;
    this.#window = bridge;
    this.#view = this.#bridgeView;
    this.#start = at;
    this.#end = at + size;
  }

  /** Where the backend may put bytes. */
  protected space(): Uint8Array {
    const unread = this.#end - this.#start;
    if (!this.#blockLent && this.#nextBytes === 0) this.#toFront(unread);
    if (this.#block.length - this.#blockUsed < this.#blockSize * MIN_ROOM) {
      this.#block = this.#spare.pop() ?? allocateBlock(this.#blockSize);
      this.#blockUsed = 0;
      this.#blockLent = false;
      if (this.#nextBytes === 0) this.#toFront(unread);
    }
    return this.#block.subarray(this.#blockUsed);
  }

  /** Moves the window to the front of the block, which nobody else uses, unless that is too much to move. */
  #toFront(unread: number): void {
    const own = this.#window === this.#block;
    if (!own && unread > this.#blockSize * MAX_MOVED) return;
    if (own) this.#block.copyWithin(0, this.#start, this.#end);
    else if (unread > 0) this.#block.set(this.#window.subarray(this.#start, this.#end), 0);
    this.#blockUsed = unread;
    if (unread > 0 && !own) this.#loadWindow(this.#block);
    if (unread > 0 || own) {
      this.#start = 0;
      this.#end = unread;
    }
  }

  /** Takes in bytes that the backend put into `space()`. */
  protected filled(bytes: number): void {
    const from = this.#blockUsed;
    this.#blockUsed += bytes;
    const unread = this.#end - this.#start;
    if (this.#borrowed || this.#nextBytes > 0) {
      this.append(this.#block.subarray(from, this.#blockUsed));
    } else if (unread > 0 && this.#window === this.#block && this.#end === from) {
      this.#end += bytes;
    } else if (unread === 0) {
      if (this.#window !== this.#block) this.#loadWindow(this.#block);
      this.#start = from;
      this.#end = this.#blockUsed;
    } else {
      this.append(this.#block.subarray(from, this.#blockUsed));
    }
  }

  /** Takes in a buffer that the backend handed over. */
  protected append(chunk: Uint8Array): void {
    this.#next.push(chunk);
    this.#nextBytes += chunk.length;
  }

  /** Puts buffers back in front of everything; nobody else holds any from now on. */
  protected giveBack(chunks: Uint8Array[]): void {
    this.#borrowed = false;
    if (chunks.length > 0) this.#putInFront(chunks);
  }

  /** Has nothing enter the window until `giveBack`: somebody is about to hold bytes that come first. */
  protected borrow(): void {
    if (this.#borrowed) return;
    this.#putInFront([]);
    this.#borrowed = true;
  }

  /** Takes the first available buffer, for good: its bytes may be kept by whoever gets them. */
  protected lend(): Uint8Array {
    if (this.#start === this.#end) this.contiguous(1);
    const chunk = this.#window.subarray(this.#start, this.#end);
    if (chunk.buffer === this.#block.buffer) this.#blockLent = true;
    this.#loadWindow(EMPTY);
    this.#borrowed = true;
    return chunk;
  }

  /** Makes blocks at least so large from now on. */
  protected enlarge(blockSize: number): void {
    this.#blockSize = Math.max(this.#blockSize, blockSize);
  }

  /** Takes the first available buffer, until `returned`: then its memory is used again. */
  protected loan(): Uint8Array {
    if (this.#start === this.#end) this.contiguous(1);
    const chunk = this.#window.subarray(this.#start, this.#end);
    if (chunk.buffer === this.#block.buffer) {
      const isWhole = this.#window === this.#block && this.#nextBytes === 0 && !this.#blockLent;
      if (isWhole) this.#loans.set(chunk.buffer, this.#block);
      if (isWhole) this.#block = EMPTY;
      else this.#blockLent = true;
    }
    this.#loadWindow(EMPTY);
    return chunk;
  }

  /** Takes back what was on loan. */
  protected returned(chunk: Uint8Array): void {
    const block = this.#loans.get(chunk.buffer);
    if (block === undefined) return;
    this.#loans.delete(chunk.buffer);
    if (this.#spare.length < SPARE_BLOCKS) this.#spare.push(block);
  }

  /** True if bytes were lent since `giveBack` was last called. */
  protected get borrowed(): boolean {
    return this.#borrowed;
  }

  /** Puts buffers before the window, which is emptied. */
  #putInFront(chunks: Uint8Array[]): void {
    const unread = this.#window.subarray(this.#start, this.#end);
    if (unread.length > 0) chunks.push(unread);
    this.#loadWindow(EMPTY);
    this.#next.unshift(chunks);
    for (const chunk of chunks) this.#nextBytes += chunk.length;
  }

  #loadWindow(bytes: Uint8Array): void {
    this.#window = bytes;
    this.#view =
      bytes === EMPTY ? EMPTY_VIEW : new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#start = 0;
    this.#end = bytes.length;
  }

  #tooLarge(operation: string, value: bigint): RangeError {
    return new RangeError(`${operation}: ${value} is beyond 2^53-1; use ${operation}Big`);
  }
}
