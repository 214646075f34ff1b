import { backendError } from '../../contract/backend-result.ts';
import { abortError, QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../contract/ops.ts';
import { HalfDigest } from '../../util/digest.ts';
import { Fifo } from '../../util/fifo.ts';
import { LookAhead } from './look-ahead.ts';
import { type PendingRead, pendingRead, type ReadRequest } from './pending-read.ts';

/*
 * The get half: asks the backend for bytes when somebody wants some, one `getBuffer` at a time, and
 * serves first whoever waits for a number of bytes, in order, and then the stream's `read()`.
 */

/** What the get half asks of the file it belongs to. */
export interface GetHost {
  /** A failure to latch. */
  getFailed(error: QemuFileError): void;
  /** A chunk for `read()`, `'data'` and `pipe()`; null is the end. */
  deliver(chunk: Uint8Array | null): void;
  /** The end was met, and will be delivered when nobody can take back anything any more. */
  endHeld(): void;
  /** Bytes that were delivered and that nobody has read yet. */
  held(): number;
  /** Chunks that were delivered and that nobody has read yet, taken back. */
  takeBack(): Uint8Array[];
}

/** Settings of the get half, all decided. */
export interface GetSettings {
  readable: boolean;
  lookAheadSize: number;
  maxLookAhead: number;
  digest: boolean;
}

/** How long to leave a backend alone that says EAGAIN although it should have waited. */
const RETRY_MS = 5;

/**
 * Size of the buffer given to `getBuffer` while bytes are handed over: each one costs JavaScript time, and a
 * unix socket takes no more than 208 KiB at once (bench/relay.ts).
 */
const HAND_OVER_SIZE = 192 * 1024;

/** The greatest size of one peek or in-place get, as in QEMU. */
export const PEEK_LIMIT = 32768;

export class GetHalf extends LookAhead {
  readonly #ops: QemuFileOps;
  readonly #settings: GetSettings;
  readonly #host: GetHost;

  #fetched = 0;
  #space: Uint8Array = new Uint8Array(0);
  #asking = false;
  #ended = false;
  /** Unread bytes that were given away or dropped when the gets stopped. */
  #dropped = 0;
  /** All bytes are handed over to somebody else: the stream gets none, only the end. */
  #handsOver = false;
  /** The stream has asked for a chunk and has not got one. */
  #streamWaits = false;
  #streamServed = false;
  #endHeld = false;
  #blocking = false;
  #retry: NodeJS.Timeout | null = null;
  readonly #waiters: Fifo<PendingRead> = new Fifo();
  /** How many are moving the backend: it must not be asked meanwhile. */
  #moving = 0;
  /** Whoever waits until the backend has answered. */
  readonly #quiet: (() => void)[] = [];
  #error: QemuFileError | null = null;
  readonly #digest: HalfDigest;

  constructor(ops: QemuFileOps, settings: GetSettings, host: GetHost) {
    super(settings.lookAheadSize);
    this.#ops = ops;
    this.#settings = settings;
    this.#host = host;
    this.#digest = new HalfDigest(settings.digest);
  }

  /** Bytes fetched from the backend, look-ahead included. @see QEMU `QEMUFile.pos` of a reader */
  get fetched(): number {
    return this.#fetched;
  }

  /** Offset in the stream of the next byte to get. */
  get position(): number {
    return this.#fetched - this.#dropped - this.available - this.#host.held();
  }

  /** Running XXH64 of what was fetched, as 16 hex digits; null without the option. */
  get digest(): string | null {
    return this.#digest.hex;
  }

  /** Bytes that gets can have without waiting, those that the stream was given and nobody read included. */
  get lookedAhead(): number {
    return this.available + this.#host.held();
  }

  /** Bytes that a wait of any size may ask for at a time. */
  get chunkLimit(): number {
    return Math.min(PEEK_LIMIT, this.#settings.maxLookAhead);
  }

  /** Whether gets may block the thread on a backend that answers at once. */
  set blocking(blocking: boolean) {
    this.#blocking = blocking;
  }

  /**
   * Waits for bytes, before anyone who asks later can have them.
   *
   * @param wish - How many, and what to do with them.
   * @param signal - Ends the wait.
   */
  wait<T>(wish: ReadRequest<T>, signal?: AbortSignal): Promise<T> {
    const { operation } = wish;
    const most = this.#settings.maxLookAhead;
    if (!(Number.isSafeInteger(wish.size) && wish.size >= 0 && wish.size <= most)) {
      const reason = `${operation}: ${wish.size} is not a number of bytes in 0…${most} (maxLookAhead)`;
      return Promise.reject(new RangeError(reason));
    }
    return new Promise<T>((resolve, reject) => {
      const error = this.#error ?? this.#unreadable(operation);
      if (error !== null) return reject(error);
      if (signal?.aborted === true) return reject(abortError(signal, operation));
      this.#waiters.push(pendingRead(wish, resolve, reject, signal, this.#abandon));
      this.#serve();
    });
  }

  readonly #abandon = (waiter: PendingRead): void => {
    this.#waiters.remove(waiter);
    this.#serve();
  };

  /** Makes sure that `size` bytes are there, contiguous and not consumed, or throws. */
  need(size: number, operation: string): void {
    const most = this.#settings.maxLookAhead;
    if (!(Number.isSafeInteger(size) && size >= 0 && size <= most)) {
      throw new RangeError(`${operation}: ${size} is not a number of bytes in 0…${most}`);
    }
    this.demand(size, operation);
  }

  /** Up to `size` bytes from `offset` on, not consumed; fewer if they are not there. */
  peek(size: number, offset: number): Uint8Array {
    const whole = Number.isInteger(size) && Number.isInteger(offset);
    const within = size >= 0 && offset >= 0 && offset < PEEK_LIMIT && size <= PEEK_LIMIT - offset;
    if (!(whole && within)) {
      throw new RangeError(`peekBuffer: ${size} bytes at ${offset} do not lie in 0…${PEEK_LIMIT}`);
    }
    this.#takeBack();
    if (this.available < offset + size) this.#fillBlocking(offset + size);
    return this.peekAvailable(size, offset);
  }

  /** Consumes `size` bytes if they are there, else nothing. */
  skip(size: number): boolean {
    if (!(Number.isSafeInteger(size) && size >= 0)) {
      throw new RangeError(`skip: ${size} is not a number of bytes`);
    }
    this.#takeBack();
    if (size > this.available) return false;
    this.drop(size);
    return true;
  }

  /** Copies exactly as many bytes as the target holds, all of them looked ahead. */
  copyTo(target: Uint8Array): void {
    if (this.available < target.length) this.demand(target.length, 'getBuffer');
    this.#takeBack();
    this.copyOut(target);
  }

  /** Copies what is there, up to the target's size. */
  copySome(target: Uint8Array): number {
    this.#takeBack();
    return this.copyOut(target);
  }

  /** Drops what is there, up to `size`. */
  dropSome(size: number): number {
    this.#takeBack();
    return this.drop(size);
  }

  /** The stream wants a chunk. */
  streamWants(): void {
    this.#streamWaits = true;
    this.#serve();
  }

  /** From now on bytes are for `handOver` alone. */
  beginHandOver(): void {
    this.#handsOver = true;
    this.enlarge(HAND_OVER_SIZE);
  }

  /** From now on bytes, or the end that is all there is left, are for the stream again. */
  endHandOver(): void {
    this.#handsOver = false;
    this.#serve();
  }

  /** Gives what comes next, to be returned with `handedOver`; null if it has to be waited for. */
  handOver(): Uint8Array | null {
    if (this.#error !== null || this.#waiters.length > 0) return null;
    this.#takeBack();
    while (this.available === 0 && this.#ask());
    if (this.available === 0) return null;
    // What the backend is still filling must not be used for anything else.
    return this.#asking ? this.lend() : this.loan();
  }

  /** Takes back the memory of what `handOver` gave. */
  handedOver(chunk: Uint8Array): void {
    this.returned(chunk);
  }

  /** Serves the stream with what it asked for and what is there by now: typed gets left it. */
  serveStream(): void {
    if (this.#streamWaits && this.available > 0) this.#serve();
  }

  /** Whether the stream has asked for a chunk, and nothing is left to give but the end. */
  get onlyEndLeft(): boolean {
    return this.#streamWaits && this.#ended && this.available === 0 && this.#waiters.length === 0;
  }

  /** Tells the stream its end. */
  sayEnd(): void {
    this.#streamWaits = false;
    this.#host.deliver(null);
  }

  /** The stream is about to be given bytes back that come before all that is here. */
  unshifting(): void {
    this.borrow();
  }

  /** Waits until the backend has answered, and leaves it alone until `moved`. */
  async moving(): Promise<void> {
    this.#moving += 1;
    if (this.#asking) await new Promise<void>((resolve) => this.#quiet.push(resolve));
  }

  /**
   * Asks the backend again from now on.
   *
   * @param forget - Whether to drop what was looked ahead, and that the end was met.
   */
  moved(forget: boolean): void {
    this.#moving -= 1;
    if (forget) {
      this.#takeBack();
      this.#fetched -= this.available;
      this.clear();
      this.#ended = false;
    }
    this.#serve();
  }

  /** Takes all that was fetched and nobody consumed. */
  takeRest(): Uint8Array[] {
    this.#takeBack();
    const chunks: Uint8Array[] = [];
    this.#dropped += this.available;
    while (this.available > 0) chunks.push(this.lend());
    return chunks;
  }

  /** Ends all gets: whoever waits is told. */
  stop(error: QemuFileError): void {
    if (this.#error !== null) return;
    this.#error = error;
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#tellQuiet();
    for (const waiter of this.#waiters.takeAll()) waiter.done(error);
    this.#dropped += this.available;
    this.clear();
  }

  protected override demand(size: number, operation: string): void {
    this.#takeBack();
    if (this.available < size) this.#fillBlocking(size);
    if (this.available < size) throw this.#shortage(size, operation);
    this.contiguous(Math.min(size, this.available));
  }

  /** Why `size` bytes are not there. */
  #shortage(size: number, operation: string): QemuFileError {
    const failed = this.#error ?? this.#unreadable(operation);
    if (failed !== null) return failed;
    const reason = `wanted ${size} bytes, ${this.available} are there`;
    const context = { operation, position: this.position };
    if (!this.#ended) return new QemuFileError('EAGAIN', reason, context);
    const error = new QemuFileError('EIO', `the stream ended: ${reason}`, context);
    this.#host.getFailed(error);
    return error;
  }

  #unreadable(operation: string): QemuFileError | null {
    if (this.#settings.readable) return null;
    return new QemuFileError('EBADF', 'the file is not readable', { operation });
  }

  #takeBack(): void {
    if (!this.borrowed) return;
    const chunks = this.#host.takeBack();
    // What the gets of this tick leave is the stream's again: it may be waiting for nothing else.
    if (chunks.length > 0 && this.#streamWaits && !this.#streamServed) {
      this.#streamServed = true;
      process.nextTick(this.#serveLeft);
    }
    this.giveBack(chunks);
  }

  readonly #serveLeft = (): void => {
    this.#streamServed = false;
    this.#serve();
  };

  /** Serves whoever waits, asking the backend as long as it answers at once. */
  #serve(): void {
    for (;;) {
      if (this.#error !== null) return;
      const waiter = this.#waiters.first;
      if (waiter !== undefined) {
        this.#takeBack();
        if (this.available >= waiter.size) {
          let failure: Error | null = null;
          try {
            waiter.size = waiter.wish.more?.() ?? 0;
          } catch (error) {
            failure = error as Error;
          }
          if (failure === null && waiter.size > 0) continue;
          this.#waiters.shift();
          waiter.done(failure);
          continue;
        }
        if (this.#ended) {
          if (waiter.wish.orEnd !== true) {
            this.#shortage(waiter.size, waiter.wish.operation);
            return;
          }
          this.#waiters.shift();
          waiter.done(null);
          continue;
        }
      } else if (!this.#streamWaits || this.#handsOver) {
        return;
      } else if (this.available > 0) {
        this.#streamWaits = false;
        this.#host.deliver(this.lend());
        continue;
      } else if (this.#ended) {
        // Said only when nothing is left to take back.
        if (this.#host.held() === 0) this.sayEnd();
        else if (!this.#endHeld) this.#host.endHeld();
        this.#endHeld = true;
        return;
      }
      if (!this.#ask()) return;
    }
  }

  /** Asks the backend for bytes; true if it answered at once. */
  #ask(): boolean {
    if (this.#asking || this.#ended || this.#retry !== null || this.#error !== null) return false;
    if (this.#moving > 0) return false;
    if (!this.#digest.ready(this.#resume, this.#digestFailed)) return false;
    this.#space = this.space();
    let answer: MaybePromise<number | Uint8Array>;
    try {
      answer = (this.#ops.getBuffer as NonNullable<QemuFileOps['getBuffer']>)(
        this.#space,
        this.#fetched,
      );
    } catch (error) {
      this.#onFailure(error);
      return false;
    }
    if (typeof answer !== 'object' || answer === null || answer instanceof Uint8Array) {
      return this.#take(answer);
    }
    this.#asking = true;
    Promise.resolve(answer).then(this.#onAnswer, this.#onFailure);
    return false;
  }

  readonly #resume = (): void => this.#serve();

  readonly #digestFailed = (error: unknown): void => {
    this.#host.getFailed(toQemuFileError(error, { operation: 'loadDigest' }));
  };

  readonly #onAnswer = (answer: number | Uint8Array): void => {
    this.#asking = false;
    if (this.#error !== null) return;
    this.#take(answer);
    this.#tellQuiet();
    this.#serve();
  };

  readonly #onFailure = (error: unknown): void => {
    this.#asking = false;
    if (this.#error !== null) return;
    const cause = error ?? new Error('the backend failed without saying why');
    const failure = toQemuFileError(cause, this.#context());
    if (failure.code === 'EAGAIN') this.#tryLater();
    else this.#host.getFailed(failure);
    this.#tellQuiet();
  };

  #tellQuiet(): void {
    for (const tell of this.#quiet.splice(0)) tell();
  }

  /** Takes in the backend's answer; false if there is nothing more to be had now. */
  #take(answer: number | Uint8Array): boolean {
    const bytes = this.#bytesOf(answer);
    if (bytes === null) return false;
    if (bytes.length === 0) {
      this.#ended = true;
      return true;
    }
    this.#digest.update(bytes);
    if (typeof answer === 'number') this.filled(answer);
    else this.append(answer);
    this.#fetched += bytes.length;
    return true;
  }

  /** The bytes of an answer; null if it was none, or not a sensible one. */
  #bytesOf(answer: number | Uint8Array): Uint8Array | null {
    if (answer instanceof Uint8Array) return answer;
    const most = this.#space.length;
    if (Number.isInteger(answer) && answer >= 0 && answer <= most) {
      return this.#space.subarray(0, answer);
    }
    const error = backendError(answer, `when given room for ${most} bytes`, this.#context());
    if (error.code === 'EAGAIN') this.#tryLater();
    else this.#host.getFailed(error);
    return null;
  }

  #context(): { operation: string; position: number } {
    return { operation: 'getBuffer', position: this.#fetched };
  }

  #tryLater(): void {
    this.#retry = setTimeout(() => {
      this.#retry = null;
      this.#serve();
    }, RETRY_MS);
  }

  /** In blocking mode, fills until `size` bytes are there or the backend does not answer at once. */
  #fillBlocking(size: number): void {
    if (!this.#blocking || !this.#settings.readable) return;
    while (this.available < size && this.#ask());
  }
}
