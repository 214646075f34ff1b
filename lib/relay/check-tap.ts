import { QemuFile } from '../qemu-file/qemu-file.ts';
import { noop } from '../util/noop.ts';

/** Reads along with a relay; what it rejects with, the relay fails with. */
export type RelayCheck = (stream: AsyncIterable<Uint8Array>) => Promise<void>;

/** Somebody who reads along: a sink among others, at whose pace bytes are handed on until it has enough. */
export class CheckTap {
  /** Where the bytes are to be written. */
  readonly file: QemuFile;
  /** Settles with the check. */
  readonly done: Promise<void>;
  /** What has been written and not been read, and who waits for it. */
  #chunk: Buffer | null = null;
  #taken: () => void = noop;
  #wake: () => void = noop;
  #isOver = false;
  #error: Error | null = null;
  #hasEnough = false;

  constructor(check: RelayCheck) {
    this.file = new QemuFile({
      writevBuffer: (buffers) => {
        if (this.#hasEnough) return buffers.reduce((sum, { length }) => sum + length, 0);
        // A copy: who reads along may still have a part of it when it asks for the next.
        const chunk = Buffer.concat(buffers);
        this.#chunk = chunk;
        this.#wake();
        return new Promise((resolve) => {
          this.#taken = () => resolve(chunk.length);
        });
      },
      close: (error) => {
        this.#error = error ?? null;
        this.#isOver = true;
        this.#wake();
      },
    });
    this.done = this.#run(check);
    this.done.catch(noop);
  }

  async #run(check: RelayCheck): Promise<void> {
    try {
      await check(this.#chunks());
    } finally {
      this.#hasEnough = true;
      this.#chunk = null;
      this.#taken();
    }
  }

  async *#chunks(): AsyncGenerator<Uint8Array, void> {
    for (;;) {
      const chunk = this.#chunk;
      if (chunk !== null) {
        this.#chunk = null;
        yield chunk;
        this.#taken();
      } else if (this.#error !== null) {
        throw this.#error;
      } else if (this.#isOver) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
