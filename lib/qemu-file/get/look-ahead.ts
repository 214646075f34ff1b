import { Fifo } from '../../util/fifo.ts';
import { Bridge } from './bridge.ts';
import { ReadBlocks } from './read-blocks.ts';
import { isKeepable, keepText, keptText, textHash } from './text-cache.ts';

/*
 * The look-ahead: bytes that came from the backend and were not consumed.
 *
 *   window (start…end of one buffer) ─ then ─ next[0], next[1], …
 *
 * Typed gets read from the window without a copy. When a value spans two buffers, `contiguous` copies that
 * value alone into a bridge. A block of which no reader keeps a view is used again, with the unread bytes
 * moved to its front, as QEMU does.
 */

const EMPTY = new Uint8Array(0);
const EMPTY_VIEW = new DataView(EMPTY.buffer);
const TWO_32 = 0x1_0000_0000;

/** Most unread bytes, as a fraction of the block's size, that are moved to the front of a block. */
const MAX_MOVED = 0.125;

/** The owner of the look-ahead. */
export interface LookAheadHost {
  /** Make `size` bytes contiguous in the window, or throw. Called when the window is too short. */
  demand(size: number, operation: string): void;
}

export class LookAhead {
  readonly #host: LookAheadHost;
  #window: Uint8Array = EMPTY;
  #view: DataView = EMPTY_VIEW;
  #start = 0;
  #end = 0;
  /** The window as a Buffer, made when a text is read, and the window that it was made of. */
  #text: Buffer = Buffer.alloc(0);
  #textOf: Uint8Array = EMPTY;
  readonly #next: Fifo<Uint8Array> = new Fifo();
  #nextBytes = 0;
  readonly #blocks: ReadBlocks;
  readonly #bridge: Bridge = new Bridge();

  /** Whether the stream may hold bytes that precede the window: then nothing enters the window. */
  #isPinned = false;

  constructor(blockSize: number, host: LookAheadHost) {
    this.#blocks = new ReadBlocks(blockSize);
    this.#host = host;
  }

  /** Bytes that can be had without asking the backend. */
  get available(): number {
    return this.#end - this.#start + this.#nextBytes;
  }

  /** Whether bytes were detached, or the window pinned, since `putBack` was last called. */
  get isPinned(): boolean {
    return this.#isPinned;
  }

  byte(): number {
    if (this.#start + 1 > this.#end) this.#host.demand(1, 'getByte');
    const at = this.#start;
    this.#start = at + 1;
    return this.#view.getUint8(at);
  }

  sbyte(): number {
    if (this.#start + 1 > this.#end) this.#host.demand(1, 'getSbyte');
    const at = this.#start;
    this.#start = at + 1;
    return this.#view.getInt8(at);
  }

  be16(): number {
    if (this.#start + 2 > this.#end) this.#host.demand(2, 'getBe16');
    const at = this.#start;
    this.#start = at + 2;
    return this.#view.getUint16(at);
  }

  sbe16(): number {
    if (this.#start + 2 > this.#end) this.#host.demand(2, 'getSbe16');
    const at = this.#start;
    this.#start = at + 2;
    return this.#view.getInt16(at);
  }

  be32(): number {
    if (this.#start + 4 > this.#end) this.#host.demand(4, 'getBe32');
    const at = this.#start;
    this.#start = at + 4;
    return this.#view.getUint32(at);
  }

  sbe32(): number {
    if (this.#start + 4 > this.#end) this.#host.demand(4, 'getSbe32');
    const at = this.#start;
    this.#start = at + 4;
    return this.#view.getInt32(at);
  }

  /** Return a number. A value beyond 2^53-1 throws a RangeError and is not consumed. */
  be64(): number {
    if (this.#start + 8 > this.#end) this.#host.demand(8, 'getBe64');
    const at = this.#start;
    const high = this.#view.getUint32(at);
    if (high > 0x1f_ffff) throw this.#tooLarge('getBe64', this.#view.getBigUint64(at));
    this.#start = at + 8;
    return high * TWO_32 + this.#view.getUint32(at + 4);
  }

  /** Return a number. A value beyond ±(2^53-1) throws a RangeError and is not consumed. */
  sbe64(): number {
    if (this.#start + 8 > this.#end) this.#host.demand(8, 'getSbe64');
    const at = this.#start;
    const value = this.#view.getInt32(at) * TWO_32 + this.#view.getUint32(at + 4);
    if (!Number.isSafeInteger(value)) throw this.#tooLarge('getSbe64', this.#view.getBigInt64(at));
    this.#start = at + 8;
    return value;
  }

  be64Big(): bigint {
    if (this.#start + 8 > this.#end) this.#host.demand(8, 'getBe64Big');
    const at = this.#start;
    this.#start = at + 8;
    return this.#view.getBigUint64(at);
  }

  sbe64Big(): bigint {
    if (this.#start + 8 > this.#end) this.#host.demand(8, 'getSbe64Big');
    const at = this.#start;
    this.#start = at + 8;
    return this.#view.getBigInt64(at);
  }

  /** Return a counted string, consumed; undefined, with nothing consumed, if the window does not hold all of it. */
  counted(encoding: BufferEncoding): string | undefined {
    const from = this.#start;
    if (from === this.#end) return undefined;
    const to = from + 1 + this.#view.getUint8(from);
    if (to > this.#end) return undefined;
    this.#start = to;
    if (encoding !== 'utf8' || !isKeepable(to - from)) return this.#decode(from + 1, to, encoding);
    const view = this.#view;
    const hash = textHash(view, from, to);
    const kept = keptText(view, from, to, hash);
    if (kept !== undefined) return kept;
    const text = this.#decode(from + 1, to, encoding);
    keepText(view, from, to, hash, text);
    return text;
  }

  #decode(from: number, to: number, encoding: BufferEncoding): string {
    const window = this.#window;
    if (this.#textOf !== window) {
      this.#text = Buffer.from(window.buffer, window.byteOffset, window.length);
      this.#textOf = window;
    }
    // V8 decodes ASCII as latin1 in half the time.
    const isAscii = encoding === 'utf8' && this.#isAscii(from, to);
    return this.#text.toString(isAscii ? 'latin1' : encoding, from, to);
  }

  #isAscii(from: number, to: number): boolean {
    const window = this.#window;
    let bits = 0;
    for (let at = from; at < to; at++) bits |= window[at] as number;
    return bits < 0x80;
  }

  /** Return the next `size` bytes as a view, consumed. It is valid until the backend is asked again. */
  inPlace(size: number, operation: string): Uint8Array {
    if (this.#start + size > this.#end) this.#host.demand(size, operation);
    const at = this.#start;
    this.#start = at + size;
    // Half the price of a Buffer's subarray (bench/read-pages.ts).
    const window = this.#window;
    return new Uint8Array(window.buffer, window.byteOffset + at, size);
  }

  /** Return up to `size` available bytes from `offset` on, as a view, not consumed. */
  peek(size: number, offset: number): Uint8Array {
    const reach = Math.min(this.available, offset + size);
    if (reach <= offset) return EMPTY;
    this.contiguous(reach);
    return this.#window.subarray(this.#start + offset, this.#start + reach);
  }

  /** Copy available bytes out, consumed; return how many. */
  copyOut(target: Uint8Array): number {
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

  /** Drop up to `size` available bytes; return how many. */
  drop(size: number): number {
    if (size <= this.#end - this.#start) {
      this.#start += size;
      return size;
    }
    let dropped = 0;
    while (dropped < size && this.available > 0) {
      this.contiguous(1);
      const take = Math.min(size - dropped, this.#end - this.#start);
      this.#start += take;
      dropped += take;
    }
    return dropped;
  }

  /** Drop all bytes. */
  clear(): void {
    this.#loadWindow(EMPTY);
    this.#next.clear();
    this.#nextBytes = 0;
  }

  /** Make `size` of the available bytes contiguous at the start of the window. */
  contiguous(size: number): void {
    const have = this.#end - this.#start;
    if (have >= size) return;
    if (have === 0) {
      const first = this.#next.shift() as Uint8Array;
      this.#nextBytes -= first.length;
      this.#loadWindow(first);
      if (first.length >= size) return;
    }
    const bridge = this.#bridge;
    const head = this.#window.subarray(this.#start, this.#end);
    this.#nextBytes -= bridge.join(size, head, this.#next);
    this.#window = bridge.bytes;
    this.#view = bridge.view;
    this.#start = bridge.start;
    this.#end = bridge.start + size;
    bridge.releaseLarge();
  }

  /** Return the memory that the backend may fill. */
  space(): Uint8Array {
    const blocks = this.#blocks;
    const unread = this.#end - this.#start;
    if (!blocks.isShared && this.#nextBytes === 0) this.#moveToFront(unread);
    if (blocks.isLow) {
      blocks.renew();
      if (this.#nextBytes === 0) this.#moveToFront(unread);
    }
    return blocks.current.subarray(blocks.used);
  }

  /** Move the window to the front of the block, which no reader uses, unless that is too much to move. */
  #moveToFront(unread: number): void {
    const blocks = this.#blocks;
    const isOwn = this.#window === blocks.current;
    if (!isOwn && unread > blocks.size * MAX_MOVED) return;
    if (isOwn) blocks.current.copyWithin(0, this.#start, this.#end);
    else if (unread > 0) blocks.current.set(this.#window.subarray(this.#start, this.#end), 0);
    blocks.used = unread;
    if (unread > 0 && !isOwn) this.#loadWindow(blocks.current);
    if (unread > 0 || isOwn) {
      this.#start = 0;
      this.#end = unread;
    }
  }

  /** Take in bytes that the backend put into `space()`. */
  filled(bytes: number): void {
    const blocks = this.#blocks;
    const from = blocks.used;
    const end = from + bytes;
    blocks.used = end;
    const unread = this.#end - this.#start;
    const isOwn = this.#window === blocks.current;
    if (this.#isPinned || this.#nextBytes > 0) {
      this.append(blocks.current.subarray(from, end));
    } else if (unread > 0 && isOwn && this.#end === from) {
      this.#end = end;
    } else if (unread === 0) {
      if (!isOwn) this.#loadWindow(blocks.current);
      this.#start = from;
      this.#end = end;
    } else {
      this.append(blocks.current.subarray(from, end));
    }
  }

  /** Take in a buffer that the backend handed over. */
  append(chunk: Uint8Array): void {
    this.#next.push(chunk);
    this.#nextBytes += chunk.length;
  }

  /** Put buffers back before all other bytes, and let new bytes enter the window again. */
  putBack(chunks: Uint8Array[]): void {
    this.#isPinned = false;
    if (chunks.length > 0) this.#putInFront(chunks);
  }

  /** Keep new bytes out of the window until `putBack()`: the stream is given bytes that precede them. */
  pinWindow(): void {
    if (this.#isPinned) return;
    this.#putInFront([]);
    this.#isPinned = true;
  }

  /** Return the first available buffer, consumed. Its bytes may be kept for good. */
  detachFirst(): Uint8Array {
    const chunk = this.#takeWindow();
    if (chunk.buffer === this.#blocks.current.buffer) this.#blocks.isShared = true;
    this.#isPinned = true;
    return chunk;
  }

  /** Return the first available buffer, consumed, until `checkIn()`: then its memory is used again. */
  checkOut(): Uint8Array {
    const blocks = this.#blocks;
    const isOwn = this.#start < this.#end && this.#window === blocks.current;
    const isOnlyUser = isOwn && this.#nextBytes === 0 && !blocks.isShared;
    const chunk = this.#takeWindow();
    if (isOnlyUser) blocks.checkOut();
    else if (chunk.buffer === blocks.current.buffer) blocks.isShared = true;
    return chunk;
  }

  /** Take back the memory of a chunk of `checkOut()`. */
  checkIn(chunk: Uint8Array): void {
    this.#blocks.checkIn(chunk);
  }

  /** Make blocks at least `size` bytes large from now on. */
  enlargeBlocks(size: number): void {
    this.#blocks.enlarge(size);
  }

  /** Return the first available buffer, and leave the window empty. */
  #takeWindow(): Uint8Array {
    if (this.#start === this.#end) this.contiguous(1);
    const chunk = this.#window.subarray(this.#start, this.#end);
    this.#loadWindow(EMPTY);
    return chunk;
  }

  /** Put buffers before the window, which is left empty. */
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
