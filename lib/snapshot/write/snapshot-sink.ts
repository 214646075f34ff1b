import { QemuFileError } from '../../contract/errors.ts';
import type { QemuFileOps } from '../../contract/ops.ts';
import { noop } from '../../util/noop.ts';

/** Bytes that were written and not read yet, before the writer waits. */
const MAX_BUFFERED_BYTES = 4_194_304;

/**
 * A backend whose bytes are read by a consumer in this process. Closing the backend ends the bytes, and waits for
 * what the consumer makes of them.
 */
export class SnapshotSink {
  readonly #chunks: Buffer[] = [];
  #buffered = 0;
  #isEnded = false;
  #failure: Error | undefined;
  #isConsumed = false;
  #wakeReader: () => void = noop;
  #wakeWriter: () => void = noop;
  readonly #consumer: Promise<unknown>;
  readonly ops: QemuFileOps;

  /** @param consume - Reads the chunks to their end; called at once. */
  constructor(consume: (chunks: AsyncIterable<Uint8Array>) => Promise<unknown>) {
    this.#consumer = consume(this.#read()).finally(() => {
      this.#isConsumed = true;
      this.#wakeWriter();
    });
    this.#consumer.catch(noop);
    this.ops = {
      writevBuffer: (buffers) => this.#write(buffers),
      close: (error) => this.#close(error),
    };
  }

  async #write(buffers: readonly Uint8Array[]): Promise<number> {
    let total = 0;
    // The buffers belong to the writer again when this ends; the consumer keeps what it has got.
    const chunk = Buffer.concat(buffers);
    total += chunk.length;
    if (!this.#isConsumed && chunk.length > 0) {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      this.#wakeReader();
    }
    while (this.#buffered > MAX_BUFFERED_BYTES && !this.#isConsumed) {
      await new Promise<void>((resolve) => {
        this.#wakeWriter = resolve;
      });
    }
    // A consumer that has failed must not get more.
    if (this.#isConsumed) await this.#consumer;
    return total;
  }

  async #close(error: Error | undefined): Promise<void> {
    this.#isEnded = true;
    this.#failure = error;
    this.#wakeReader();
    try {
      await this.#consumer;
    } catch (failure) {
      if (error === undefined) throw failure;
    }
  }

  async *#read(): AsyncGenerator<Uint8Array, void> {
    for (;;) {
      if (this.#failure !== undefined) {
        throw new QemuFileError('ECANCELED', 'the stream was given up before its end', {
          operation: 'writeSnapshot',
          cause: this.#failure,
        });
      }
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#buffered -= chunk.length;
        this.#wakeWriter();
        yield chunk;
      } else if (this.#isEnded) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wakeReader = resolve;
        });
      }
    }
  }
}
