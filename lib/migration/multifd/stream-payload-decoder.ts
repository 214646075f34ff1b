import type { Transform } from 'node:stream';
import type { PayloadDecoder } from './payload-decoder.ts';
import { PayloadOutput } from './payload-output.ts';

interface PendingDecode {
  resolve(bytes: Uint8Array): void;
  reject(error: Error): void;
}

/**
 * A decoder over a stream of node:zlib.
 *
 * Node documents two things about a Transform: it calls back a write after it has pushed all output of that
 * write, and `read()` returns null when nothing is buffered. So a payload is done when its write has called
 * back and, after that, `read()` has returned null. The stream stays in paused mode, because Node does not
 * document the order of 'data' events and write callbacks: Node 26 calls back before the last 'data'.
 */
export class StreamPayloadDecoder implements PayloadDecoder {
  readonly #stream: Transform;
  readonly #output = new PayloadOutput();
  #pending: PendingDecode | null = null;
  #failure: Error | null = null;
  /** Whether the stream has called back the write of the pending payload. */
  #isWritten = false;
  #isReading = false;

  /** @param stream - The decoder owns it. */
  constructor(stream: Transform) {
    this.#stream = stream;
    stream.on('readable', () => this.#readAll());
    stream.on('error', (error) => this.#fail(error));
    // After its end, a stream of node:zlib does not call back the write of what it has not consumed.
    stream.on('end', () => this.#fail(new Error('the compressed data has ended before its end')));
  }

  decode(payload: Uint8Array, size: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      this.#pending = { resolve, reject };
      this.#output.begin(size);
      this.#isWritten = false;
      this.#stream.write(payload, (error) => {
        if (error) return this.#fail(error);
        this.#isWritten = true;
        this.#readAll();
      });
    });
  }

  close(): void {
    this.#fail(new Error('the decoder was closed'));
  }

  /** Take all buffered output. `read()` may call back the write, so this is entered again from within. */
  #readAll(): void {
    if (this.#isReading || this.#failure !== null) return;
    this.#isReading = true;
    try {
      for (;;) {
        const chunk = this.#stream.read() as Uint8Array | null;
        if (chunk === null) break;
        this.#output.add(chunk);
      }
      if (this.#isWritten) this.#finish(this.#output.end());
    } catch (error) {
      this.#fail(error as Error);
    } finally {
      this.#isReading = false;
    }
  }

  #finish(bytes: Uint8Array): void {
    const pending = this.#pending;
    this.#pending = null;
    pending?.resolve(bytes);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    const pending = this.#pending;
    this.#pending = null;
    pending?.reject(this.#failure);
    this.#stream.destroy();
  }
}
