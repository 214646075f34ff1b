import { noop } from '../util/noop.ts';
import { totalLength } from '../util/total-length.ts';

const NOTHING: readonly Uint8Array[] = [];

/** Bytes on their way from a writer to a reader in the same process: copied once, into the memory of the reader. */
export class ChunkPipe {
  /** The buffers of the writer that are being read, and how far they are. */
  #buffers: readonly Uint8Array[] = NOTHING;
  #index = 0;
  #at = 0;
  #isEnded = false;
  #failure: Error | undefined;
  #isLeft = false;
  #wakeReader: () => void = noop;
  #wakeWriter: () => void = noop;

  /** Write buffers; wait until the reader has read them or has left. One call at a time. */
  async write(buffers: readonly Uint8Array[]): Promise<number> {
    const total = totalLength(buffers);
    if (total === 0 || this.#isLeft) return total;
    this.#buffers = buffers;
    this.#index = 0;
    this.#at = 0;
    this.#wakeReader();
    while (this.#buffers !== NOTHING) {
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
    this.#release();
  }

  /** Copy the next bytes into a buffer; return their number, 0 at the end. Rejects with the error of `end`. */
  async read(target: Uint8Array): Promise<number> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const count = this.#copy(target);
      if (count > 0 || this.#isEnded) return count;
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }

  #copy(target: Uint8Array): number {
    let done = 0;
    while (done < target.length && this.#index < this.#buffers.length) {
      const buffer = this.#buffers[this.#index] as Uint8Array;
      const end = Math.min(buffer.length, this.#at + target.length - done);
      target.set(
        this.#at === 0 && end === buffer.length ? buffer : buffer.subarray(this.#at, end),
        done,
      );
      done += end - this.#at;
      this.#at = end;
      if (end === buffer.length) {
        this.#index += 1;
        this.#at = 0;
      }
    }
    if (this.#index === this.#buffers.length) this.#release();
    return done;
  }

  #release(): void {
    if (this.#buffers === NOTHING) return;
    this.#buffers = NOTHING;
    this.#index = 0;
    this.#wakeWriter();
  }
}
