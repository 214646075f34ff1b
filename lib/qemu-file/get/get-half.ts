import { QemuFileError } from '../../contract/errors.ts';
import type { QemuFileOps } from '../../contract/ops.ts';
import type { ChunkSource } from './chunk-source.ts';
import { Fetcher } from './fetcher.ts';
import { LookAhead } from './look-ahead.ts';
import { ReadQueue, type ReadRequest, type Served } from './read-queue.ts';

/*
 * The get half: decides which consumer gets the bytes.
 *
 *   getBuffer ─► fetcher ─► look-ahead ─┬─► typed gets, at once
 *                                       ├─► read requests, in order
 *                                       └─► then one consumer: the stream's read(), or a transfer
 *
 * The backend is asked only while a consumer wants bytes.
 */

/** The file that a get half belongs to. */
export interface GetHost {
  /** Latch a failure. */
  getFailed(error: QemuFileError): void;
  /** Deliver a chunk to `read()`, `'data'` and `pipe()`; null is the end. */
  deliver(chunk: Uint8Array | null): void;
  /** The stream ended, but holds delivered bytes that typed gets can still take back. */
  endPending(): void;
  /** Return the number of delivered bytes that were not read. */
  unreadBytes(): number;
  /** Take back the delivered chunks that were not read. */
  takeBack(): Uint8Array[];
}

/** Settings of the get half, all resolved. */
export interface GetSettings {
  readable: boolean;
  lookAheadSize: number;
  maxLookAhead: number;
  digest: boolean;
}

/**
 * Which consumer gets bytes when no read request waits: none but later requests (`waiters`), the stream,
 * which asked for a chunk, or a transfer, which leaves the stream nothing but the end.
 */
type Consumer = 'waiters' | 'stream' | 'transfer';

/**
 * Size of the buffer given to `getBuffer` during a transfer: each call costs JavaScript time, and a unix
 * socket takes no more than 208 KiB at once (bench/relay.ts).
 */
const TRANSFER_BLOCK_BYTES = 192 * 1024;

/** The greatest size of one peek or in-place get, as in QEMU. */
const MAX_PEEK = 32768;

export class GetHalf implements ChunkSource {
  readonly lookAhead: LookAhead;
  readonly #fetcher: Fetcher;
  readonly #host: GetHost;
  readonly #isReadable: boolean;
  readonly #maxLookAhead: number;
  readonly #requests: ReadQueue = new ReadQueue();
  #consumer: Consumer = 'waiters';
  #isServeScheduled = false;
  #isEndAnnounced = false;
  #isBlocking = false;
  /** Unread bytes that were given away, or dropped when the gets stopped. */
  #dropped = 0;
  #error: QemuFileError | null = null;

  constructor(ops: QemuFileOps, settings: GetSettings, host: GetHost) {
    this.#host = host;
    this.#isReadable = settings.readable;
    this.#maxLookAhead = settings.maxLookAhead;
    this.lookAhead = new LookAhead(settings.lookAheadSize, {
      demand: (size, operation) => this.#demand(size, operation),
    });
    this.#fetcher = new Fetcher(ops, this.lookAhead, settings.digest, {
      fetched: () => this.#serve(),
      failed: (error) => host.getFailed(error),
    });
  }

  /** Bytes fetched from the backend, look-ahead included. */
  get fetched(): number {
    return this.#fetcher.position;
  }

  /** Offset in the stream of the next byte to get. */
  get position(): number {
    return this.#fetcher.position - this.#dropped - this.lookedAhead;
  }

  /** Running XXH64 of the bytes fetched, as 16 hexadecimal digits; null without the option. */
  get digest(): string | null {
    return this.#fetcher.digest;
  }

  /** Bytes that gets can have without waiting, delivered bytes that were not read included. */
  get lookedAhead(): number {
    return this.lookAhead.available + this.#host.unreadBytes();
  }

  /** Bytes that a request of unlimited size can wait for at a time. */
  get chunkLimit(): number {
    return Math.min(MAX_PEEK, this.#maxLookAhead);
  }

  /** Whether gets may block the thread on a backend that answers synchronously. */
  set blocking(isBlocking: boolean) {
    this.#isBlocking = isBlocking;
  }

  /** Wait for bytes. Later requests and other consumers wait until this one is complete. */
  wait<T>(request: ReadRequest<T>, signal?: AbortSignal): Promise<T> {
    const { operation, size } = request;
    const error = this.#sizeError(size, operation) ?? this.#error ?? this.#unreadable(operation);
    if (error !== null) return Promise.reject(error);
    const wait = this.#requests.add(request, signal, this.#serve);
    this.#serve();
    return wait;
  }

  /** Make `size` bytes available and contiguous without consuming them, or throw. */
  need(size: number, operation: string): void {
    const error = this.#sizeError(size, operation);
    if (error !== null) throw error;
    this.#demand(size, operation);
  }

  /** Return up to `size` bytes from `offset` on, not consumed; fewer if they are not available. */
  peek(size: number, offset: number): Uint8Array {
    const isWhole = Number.isInteger(size) && Number.isInteger(offset);
    const isWithin = size >= 0 && offset >= 0 && offset < MAX_PEEK && size <= MAX_PEEK - offset;
    if (!(isWhole && isWithin)) {
      throw new RangeError(`peekBuffer: ${size} bytes at ${offset} do not lie in 0…${MAX_PEEK}`);
    }
    this.#takeBack();
    if (this.lookAhead.available < offset + size) this.#fillBlocking(offset + size);
    return this.lookAhead.peek(size, offset);
  }

  /** Consume `size` bytes if they are available, else nothing; return whether they were. */
  skip(size: number): boolean {
    if (!(Number.isSafeInteger(size) && size >= 0)) {
      throw new RangeError(`skip: ${size} is not a number of bytes`);
    }
    this.#takeBack();
    if (size > this.lookAhead.available) return false;
    this.lookAhead.drop(size);
    return true;
  }

  /** Fill the target with available bytes, or throw. */
  copyTo(target: Uint8Array): void {
    const { length } = target;
    if (this.lookAhead.available < length) this.#demand(length, 'getBuffer');
    this.#takeBack();
    this.lookAhead.copyOut(target);
  }

  /** Copy what is available, up to the target's size; return how many bytes. */
  copySome(target: Uint8Array): number {
    this.#takeBack();
    return this.lookAhead.copyOut(target);
  }

  /** Drop what is available, up to `size`; return how many bytes. */
  dropSome(size: number): number {
    this.#takeBack();
    return this.lookAhead.drop(size);
  }

  /** The stream asks for a chunk. */
  onStreamRead(): void {
    if (this.#consumer !== 'transfer') this.#consumer = 'stream';
    this.#serve();
  }

  /** Deliver the chunk that the stream asked for, if typed gets left bytes for it. */
  serveStream(): void {
    if (this.#consumer === 'stream' && this.lookAhead.available > 0) this.#serve();
  }

  /** Whether the stream asked for a chunk and there is nothing left to deliver but the end. */
  get isOnlyEndLeft(): boolean {
    if (this.#consumer !== 'stream' || !this.#fetcher.hasEnded) return false;
    return this.lookAhead.available === 0 && this.#requests.isEmpty;
  }

  /** Deliver the end to the stream. */
  deliverEnd(): void {
    this.#consumer = 'waiters';
    this.#host.deliver(null);
  }

  /** The stream is about to be given bytes that precede all bytes here. */
  beforeUnshift(): void {
    this.lookAhead.pinWindow();
  }

  /** Deliver chunks through `takeChunk()` alone from now on. */
  startTransfer(): void {
    this.#consumer = 'transfer';
    this.lookAhead.enlargeBlocks(TRANSFER_BLOCK_BYTES);
  }

  /** Deliver bytes, or the end if nothing else is left, to the stream again. */
  stopTransfer(): void {
    this.#consumer = 'stream';
    this.#serve();
  }

  /** Return the next chunk, to be given to `recycleChunk()`; null if it has to be waited for. */
  takeChunk(): Uint8Array | null {
    if (this.#error !== null || !this.#requests.isEmpty) return null;
    this.#takeBack();
    while (this.lookAhead.available === 0 && this.#fetcher.ask());
    if (this.lookAhead.available === 0) return null;
    // A block that the backend is still filling must not be used for anything else.
    return this.#fetcher.isAsking ? this.lookAhead.detachFirst() : this.lookAhead.checkOut();
  }

  /** Use the memory of a chunk of `takeChunk()` again. */
  recycleChunk(chunk: Uint8Array): void {
    this.lookAhead.checkIn(chunk);
  }

  /** Wait for the next chunk; return false at the end of the stream. */
  waitForChunk(): Promise<boolean> {
    const take = (): boolean => this.lookAhead.available > 0;
    return this.wait({ size: 1, operation: 'relay', acceptsEnd: true, take });
  }

  /** Wait until the backend has answered, and leave it alone until `endSeek()`. */
  beginSeek(): Promise<void> {
    return this.#fetcher.beginSeek();
  }

  /** Ask the backend again. After a seek that succeeded the look-ahead is dropped, and the end forgotten. */
  endSeek(hasMoved: boolean): void {
    let dropped = 0;
    if (hasMoved) {
      this.#takeBack();
      dropped = this.lookAhead.available;
      this.lookAhead.clear();
    }
    this.#fetcher.endSeek(dropped);
    this.#serve();
  }

  /** Take all bytes that were fetched and not consumed. */
  takeUnread(): Uint8Array[] {
    this.#takeBack();
    const chunks: Uint8Array[] = [];
    this.#dropped += this.lookAhead.available;
    while (this.lookAhead.available > 0) chunks.push(this.lookAhead.detachFirst());
    return chunks;
  }

  /** End all gets, and fail the requests that wait. */
  stop(error: QemuFileError): void {
    if (this.#error !== null) return;
    this.#error = error;
    this.#fetcher.stop();
    this.#requests.fail(error);
    this.#dropped += this.lookAhead.available;
    this.lookAhead.clear();
  }

  /** Make `size` bytes contiguous at the start of the window, or throw. */
  #demand(size: number, operation: string): void {
    this.#takeBack();
    if (this.lookAhead.available < size) this.#fillBlocking(size);
    if (this.lookAhead.available < size) throw this.#shortage(size, operation);
    this.lookAhead.contiguous(size);
  }

  /** Return why `size` bytes are not available. The end of the stream is latched. */
  #shortage(size: number, operation: string): QemuFileError {
    const failed = this.#error ?? this.#unreadable(operation);
    if (failed !== null) return failed;
    const reason = `wanted ${size} bytes, ${this.lookAhead.available} are there`;
    const context = { operation, position: this.position };
    if (!this.#fetcher.hasEnded) return new QemuFileError('EAGAIN', reason, context);
    const error = new QemuFileError('EIO', `the stream ended: ${reason}`, context);
    this.#host.getFailed(error);
    return error;
  }

  #sizeError(size: number, operation: string): RangeError | null {
    const max = this.#maxLookAhead;
    if (Number.isSafeInteger(size) && size >= 0 && size <= max) return null;
    const range = `0…${max} (maxLookAhead)`;
    return new RangeError(`${operation}: ${size} is not a number of bytes in ${range}`);
  }

  #unreadable(operation: string): QemuFileError | null {
    if (this.#isReadable) return null;
    return new QemuFileError('EBADF', 'the file is not readable', { operation });
  }

  /** Take delivered bytes that were not read back into the look-ahead. */
  #takeBack(): void {
    if (!this.lookAhead.isPinned) return;
    const chunks = this.#host.takeBack();
    // The stream gets again what the gets of this tick leave: it may be waiting for nothing else.
    if (chunks.length > 0 && this.#consumer === 'stream' && !this.#isServeScheduled) {
      this.#isServeScheduled = true;
      process.nextTick(this.#serveLater);
    }
    this.lookAhead.putBack(chunks);
  }

  readonly #serveLater = (): void => {
    this.#isServeScheduled = false;
    this.#serve();
  };

  /** Serve requests and the consumer, as long as the backend answers at once. */
  readonly #serve = (): void => {
    while (this.#error === null) {
      const served = this.#requests.isEmpty ? this.#serveConsumer() : this.#serveRequest();
      if (served === 'idle' || (served === 'needsBytes' && !this.#fetcher.ask())) return;
    }
  };

  #serveRequest(): Served {
    this.#takeBack();
    const { available } = this.lookAhead;
    return this.#requests.serveFirst(available, this.#fetcher.hasEnded, this.#onShortage);
  }

  readonly #onShortage = (size: number, operation: string): void => {
    this.#shortage(size, operation);
  };

  #serveConsumer(): Served {
    if (this.#consumer !== 'stream') return 'idle';
    if (this.lookAhead.available > 0) {
      this.#consumer = 'waiters';
      this.#host.deliver(this.lookAhead.detachFirst());
      return 'served';
    }
    if (!this.#fetcher.hasEnded) return 'needsBytes';
    // The end is delivered only when there are no bytes that typed gets could take back.
    if (this.#host.unreadBytes() === 0) this.deliverEnd();
    else if (!this.#isEndAnnounced) this.#host.endPending();
    this.#isEndAnnounced = true;
    return 'idle';
  }

  /** In blocking mode, fill until `size` bytes are available or the backend does not answer at once. */
  #fillBlocking(size: number): void {
    if (!this.#isBlocking || !this.#isReadable) return;
    while (this.lookAhead.available < size && this.#fetcher.ask());
  }
}
