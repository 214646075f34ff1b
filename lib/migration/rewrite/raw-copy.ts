import type { QemuFile } from '../../qemu-file/qemu-file.ts';

/** A chunk of the input, until all of its bytes were sent or dropped. */
interface HeldChunk {
  readonly bytes: Uint8Array;
  /** Parts that the output has not released. */
  parts: number;
  /** Whether no further part of it will be put. */
  isPassed: boolean;
}

/**
 * Copies bytes from one file to another by reference, with parts replaced. The bytes that come in are given to a
 * reader; a part is copied or replaced when the reader has passed it.
 */
export class RawCopy {
  readonly #from: QemuFile;
  readonly #to: QemuFile;
  readonly #chunks: HeldChunk[] = [];
  /** Offset in the stream of the first held chunk. */
  #start = 0;
  /** Offset in the stream of the first byte that was neither copied nor replaced. */
  #done = 0;
  #received = 0;
  #isDiscarding = false;
  readonly #recycle: (chunk: Uint8Array) => void;
  readonly #source: ReturnType<QemuFile['startTransfer']>;

  /** @param from - Its next byte is the stream's first. All of its bytes are taken by this copy. */
  constructor(from: QemuFile, to: QemuFile) {
    this.#from = from;
    this.#to = to;
    this.#source = from.startTransfer();
    this.#recycle = (chunk) => this.#source.recycleChunk(chunk);
  }

  /** Offset in the stream after the last byte that was copied or replaced. */
  get done(): number {
    return this.#done;
  }

  /**
   * Yield the chunks of the input.
   *
   * @param limit - Returns the offset up to which bytes are decided; they are copied before the next chunk is
   *   fetched.
   * @param ready - Called before each chunk is fetched; awaited.
   */
  async *chunks(
    limit: () => number,
    ready?: () => void | Promise<void>,
  ): AsyncGenerator<Uint8Array, void> {
    let hasWaited = false;
    let isAtOnce = false;
    for (;;) {
      this.copyTo(limit());
      await ready?.();
      // A file that is read on this thread leaves no time for the end of a write, and for the start of the next.
      if (isAtOnce) await this.#turn();
      isAtOnce = false;
      if (this.#to.rateLimitExceeded()) await this.#to.drain();
      const bytes = this.#source.takeChunk();
      if (bytes === null) {
        hasWaited = true;
        if (await this.#source.waitForChunk()) continue;
        if (this.#from.error !== null) throw this.#from.error;
        return;
      }
      isAtOnce = !hasWaited;
      hasWaited = false;
      this.#chunks.push({ bytes, parts: 0, isPassed: false });
      this.#received += bytes.length;
      yield bytes;
      // The reader asks for the next chunk when it has taken this one in.
      if (this.#isDiscarding) this.#pass(this.#received, false);
    }
  }

  async #turn(): Promise<void> {
    void this.#to.flush();
    await new Promise<void>((resolve) => setImmediate(resolve));
  }

  /** Copy the bytes up to an offset. */
  copyTo(offset: number): void {
    if (offset > this.#done) this.#pass(offset, true);
  }

  /** Copy the bytes before `from`, and put others for those from there to `to`. */
  replace(from: number, to: number, bytes: Uint8Array): void {
    this.copyTo(from);
    this.#to.putBuffer(bytes);
    this.#pass(to, false);
  }

  /** Drop the bytes up to an offset. */
  dropTo(offset: number): void {
    this.#pass(offset, false);
  }

  /** Return a copy of bytes that were received and neither copied nor replaced. */
  take(from: number, to: number): Buffer {
    const bytes = Buffer.alloc(to - from);
    let at = this.#start;
    for (const chunk of this.#chunks) {
      const first = Math.max(from - at, 0);
      const end = Math.min(to - at, chunk.bytes.length);
      if (first < end) bytes.set(chunk.bytes.subarray(first, end), at + first - from);
      at += chunk.bytes.length;
    }
    return bytes;
  }

  /** Return the byte at an offset; undefined if it has not been received. */
  byteAt(offset: number): number | undefined {
    return offset < this.#received ? this.take(offset, offset + 1)[0] : undefined;
  }

  /** Drop all bytes that were not copied, and those to come. */
  discard(): void {
    this.#isDiscarding = true;
  }

  /** Pass the bytes up to an offset; copy them or drop them. */
  #pass(offset: number, isCopied: boolean): void {
    while (this.#done < offset) {
      const chunk = this.#chunks[0] as HeldChunk;
      const first = this.#done - this.#start;
      const end = Math.min(offset - this.#start, chunk.bytes.length);
      if (isCopied) this.#put(chunk, first, end);
      this.#done = this.#start + end;
      if (end < chunk.bytes.length) return;
      this.#start = this.#done;
      this.#chunks.shift();
      chunk.isPassed = true;
      if (chunk.parts === 0) this.#recycle(chunk.bytes);
    }
  }

  #put(chunk: HeldChunk, first: number, end: number): void {
    const { bytes } = chunk;
    chunk.parts += 1;
    const part = first === 0 && end === bytes.length ? bytes : bytes.subarray(first, end);
    this.#to.putBufferAsync(part, () => {
      chunk.parts -= 1;
      if (chunk.parts === 0 && chunk.isPassed) this.#recycle(bytes);
    });
  }
}
