import { noop } from '../util/noop.ts';
import { totalLength } from '../util/total-length.ts';

/** Bytes that were written and not read yet, before the writer waits. */
const MAX_BUFFERED_BYTES = 4_194_304;

/** Bytes on their way from a writer to a reader in the same process. */
export class ChunkPipe {
  readonly #chunks: Buffer[] = [];
  #buffered = 0;
  #isEnded = false;
  #failure: Error | undefined;
  #isLeft = false;
  #wakeReader: () => void = noop;
  #wakeWriter: () => void = noop;

  /** Write copies of buffers; wait while the reader has enough. */
  async write(buffers: readonly Uint8Array[]): Promise<number> {
    const total = totalLength(buffers);
    if (total > 0 && !this.#isLeft) {
      this.#chunks.push(Buffer.concat(buffers, total));
      this.#buffered += total;
      this.#wakeReader();
    }
    while (this.#buffered > MAX_BUFFERED_BYTES && !this.#isLeft) {
      await new Promise<void>((resolve) => {
        this.#wakeWriter = resolve;
      });
    }
    return total;
  }

  /** End the bytes: after the last one, or, with an error, at once. */
  end(error?: Error): void {
    this.#isEnded = true;
    this.#failure ??= error;
    this.#wakeReader();
  }

  /** The reader reads no more: the writer need not wait. */
  leave(): void {
    this.#isLeft = true;
    this.#chunks.length = 0;
    this.#buffered = 0;
    this.#wakeWriter();
  }

  /** Return the next bytes; null at the end. Rejects with the error of `end`. */
  async read(): Promise<Buffer | null> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#buffered -= chunk.length;
        this.#wakeWriter();
        return chunk;
      }
      if (this.#isEnded) return null;
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }
}
