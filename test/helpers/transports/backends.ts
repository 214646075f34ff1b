import type { QemuFileOps, QemuFileSizes, Whence } from '../../../lib/contract/ops.ts';

/** How a test backend completes an operation: synchronously, with a promise, or when the test resolves it. */
export type Answering = 'sync' | 'async' | 'manual';

/** One `writevBuffer` call. */
export interface WriteCall {
  position: number;
  /** The buffers themselves. */
  buffers: readonly Uint8Array[];
  /** Copies of their contents. */
  bytes: Buffer;
}

interface Pending {
  length: number;
  resolve(count: number): void;
  reject(error: unknown): void;
}

/**
 * Takes everything that is written and records the calls. With `'manual'` each call waits for `take()` or `fail()`.
 */
export class Sink implements QemuFileOps {
  readonly calls: WriteCall[] = [];
  /** Argument of each `close` call. */
  readonly closes: (Error | undefined)[] = [];
  /** Arguments of each `shutDown` call. */
  readonly shutDowns: [boolean, boolean][] = [];
  /** Result of `close`. */
  closeAnswer: number | undefined = undefined;
  /** True if `writevBuffer` was ever called before it had answered. */
  overlapped = false;
  /** Replaces the next `writevBuffer` call. */
  misbehave: ((length: number) => number | PromiseLike<number>) | null = null;
  readonly sizes: Partial<QemuFileSizes>;
  readonly #answering: Answering;
  #pending: Pending | null = null;

  constructor(answering: Answering = 'sync', sizes: Partial<QemuFileSizes> = {}) {
    this.#answering = answering;
    this.sizes = sizes;
  }

  /** All bytes written so far. */
  get written(): Buffer {
    return Buffer.concat(this.calls.map((call) => call.bytes));
  }

  /** Return the lengths of the entries of each call. */
  get shape(): number[][] {
    return this.calls.map((call) => call.buffers.map((buffer) => buffer.length));
  }

  /** Return whether a call waits for `take()` or `fail()`. */
  get busy(): boolean {
    return this.#pending !== null;
  }

  writevBuffer(buffers: readonly Uint8Array[], position: number): number | Promise<number> {
    if (this.#pending !== null) this.overlapped = true;
    const bytes = Buffer.concat(buffers);
    this.calls.push({ position, buffers: [...buffers], bytes });
    if (this.misbehave !== null) return this.misbehave(bytes.length) as number | Promise<number>;
    if (this.#answering === 'sync') return bytes.length;
    return new Promise((resolve, reject) => {
      this.#pending = { length: bytes.length, resolve, reject };
      if (this.#answering === 'async') setImmediate(() => this.take());
    });
  }

  /** Answer the waiting call; by default with all of its bytes. */
  take(count?: number): void {
    const pending = this.#pending;
    this.#pending = null;
    pending?.resolve(count ?? pending.length);
  }

  /** Reject the waiting call. */
  fail(error: unknown): void {
    const pending = this.#pending;
    this.#pending = null;
    pending?.reject(error);
  }

  close(error?: Error): number | undefined {
    this.closes.push(error);
    return this.closeAnswer;
  }

  shutDown(read: boolean, write: boolean): number {
    this.shutDowns.push([read, write]);
    return 0;
  }
}

/** How a `Source` delivers its chunks. */
export interface SourceOptions {
  answering?: 'sync' | 'async';
  /** Hand chunks over instead of copying them into the given buffer. */
  hands?: boolean;
}

/** Delivers one chunk per `getBuffer` call, and then the end. */
export class Source implements QemuFileOps {
  /** Position of each `getBuffer` call. */
  readonly positions: number[] = [];
  readonly closes: (Error | undefined)[] = [];
  /** In reverse order: taking from the end of an array costs the same for any length. */
  readonly #chunks: Uint8Array[];
  readonly #answering: 'sync' | 'async';
  readonly #hands: boolean;

  constructor(chunks: readonly Uint8Array[], options: SourceOptions = {}) {
    // The new owner may change a chunk that was handed over, so each delivery is a copy.
    this.#chunks = chunks.map((chunk) => Buffer.from(chunk)).toReversed();
    this.#answering = options.answering ?? 'sync';
    this.#hands = options.hands ?? false;
  }

  getBuffer(
    buffer: Uint8Array,
    position: number,
  ): number | Uint8Array | Promise<number | Uint8Array> {
    this.positions.push(position);
    if (this.#answering === 'sync') return this.#next(buffer);
    return new Promise((resolve) => setImmediate(() => resolve(this.#next(buffer))));
  }

  close(error?: Error): void {
    this.closes.push(error);
  }

  setBlocking(): void {}

  #next(buffer: Uint8Array): number | Uint8Array {
    const chunk = this.#chunks.pop();
    if (chunk === undefined) return 0;
    if (this.#hands) return chunk;
    const some = chunk.subarray(0, buffer.length);
    if (some.length < chunk.length) this.#chunks.push(chunk.subarray(some.length));
    buffer.set(some);
    return some.length;
  }
}

/** A backend whose `getBuffer` is answered by the test. */
export class Feed implements QemuFileOps {
  /** Number of `getBuffer` calls. */
  asked = 0;
  readonly closes: (Error | undefined)[] = [];
  #resolve: ((answer: number | Uint8Array) => void) | null = null;
  #reject: ((error: unknown) => void) | null = null;

  getBuffer(): Promise<number | Uint8Array> {
    this.asked += 1;
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** Return whether `getBuffer` waits for an answer. */
  get waiting(): boolean {
    return this.#resolve !== null;
  }

  /** Answer the waiting call. */
  give(answer: number | Uint8Array): void {
    const resolve = this.#resolve;
    if (resolve === null) throw new Error('nobody has asked for bytes');
    this.#resolve = null;
    resolve(answer);
  }

  /** Reject the waiting call. */
  fail(error: unknown): void {
    this.#resolve = null;
    this.#reject?.(error);
  }

  close(error?: Error): void {
    this.closes.push(error);
  }
}

/** A buffer of fixed size with one offset for both directions, which records its operations. */
export class SeekableMemory implements QemuFileOps {
  readonly memory: Buffer;
  readonly log: string[] = [];
  offset = 0;
  /** Replaces the next operation of that name. */
  readonly misbehave: Partial<Record<string, () => number | Promise<number>>> = {};

  constructor(memory: Buffer) {
    this.memory = memory;
  }

  getBuffer(buffer: Uint8Array): number {
    const some = this.memory.subarray(this.offset, this.offset + buffer.length);
    buffer.set(some);
    this.log.push(`get ${some.length}@${this.offset}`);
    this.offset += some.length;
    return some.length;
  }

  writevBuffer(buffers: readonly Uint8Array[]): number {
    const bytes = Buffer.concat(buffers);
    this.log.push(`put ${bytes.length}@${this.offset}`);
    this.memory.set(bytes, this.offset);
    this.offset += bytes.length;
    return bytes.length;
  }

  setOffset(offset: number, whence: Whence): number | Promise<number> {
    this.log.push(`setOffset ${offset} ${whence}`);
    if (this.misbehave.setOffset !== undefined) return this.misbehave.setOffset();
    const from = { set: 0, current: this.offset, end: this.memory.length };
    this.offset = from[whence] + offset;
    return this.offset;
  }

  getOffset(): number | Promise<number> {
    this.log.push('getOffset');
    return this.misbehave.getOffset === undefined ? this.offset : this.misbehave.getOffset();
  }

  putBufferAt(buffer: Uint8Array, offset: number): number | Promise<number> {
    this.log.push(`putAt ${buffer.length}@${offset}`);
    if (this.misbehave.putBufferAt !== undefined) return this.misbehave.putBufferAt();
    this.memory.set(buffer, offset);
    return buffer.length;
  }

  getBufferAt(buffer: Uint8Array, offset: number): number | Promise<number> {
    this.log.push(`getAt ${buffer.length}@${offset}`);
    if (this.misbehave.getBufferAt !== undefined) return this.misbehave.getBufferAt();
    const some = this.memory.subarray(offset, offset + buffer.length);
    buffer.set(some);
    return some.length;
  }

  close(): void {
    this.log.push('close');
  }
}
