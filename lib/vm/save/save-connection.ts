import type { Duplex } from 'node:stream';
import type { ConnectionOps } from '../../../adapters/shared/shared-transport.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import type { MaybePromise } from '../../contract/ops.ts';
import { encodeReturnPath } from '../../migration/reader/return-path.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';

const DISCARD_CHUNK_BYTES = 65536;

/**
 * The connection that QEMU saves to. With a return path QEMU does not end its stream before it has an answer,
 * so the reader of the stream, not the connection, determines where the stream ends.
 */
export class SaveConnection {
  /** The stream. Closing it leaves the connection open. */
  readonly file: QemuFile;
  /** Resolves when the first bytes arrive, or the connection ends without any. */
  readonly started: Promise<void>;
  readonly #ops: ConnectionOps;
  #isStreamEnded = false;
  #isClosed = false;
  #endRead: () => void = noop;
  #onStarted: () => void = noop;
  /** The read in progress. */
  #reading: PromiseLike<unknown> = Promise.resolve();

  /** @param socket - A connected socket; this object owns it from now on. */
  constructor(socket: Duplex) {
    this.started = new Promise((resolve) => {
      this.#onStarted = resolve;
    });
    this.#ops = socketOps(socket);
    this.file = new QemuFile({
      getBuffer: (buffer, position) => this.#read(buffer, position),
      ...(this.#ops.sizes === undefined ? {} : { sizes: this.#ops.sizes }),
    });
  }

  /** Whether QEMU has ended the connection, or it was lost. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** End `file`, because the reader has found the end of the stream. */
  endStream(): void {
    this.#isStreamEnded = true;
    this.#endRead();
  }

  /** Send `SHUT` with the value 0 on the return path: QEMU's stream was saved. */
  async sendShut(): Promise<void> {
    await this.#ops.writevBuffer([encodeReturnPath({ name: 'SHUT', value: 0 })], 0);
  }

  /**
   * Read and discard until the connection ends. A QEMU whose last bytes are not read does not run the commands
   * of its monitor, `migrate_cancel` among them.
   */
  discard(): void {
    void this.file.close().catch(noop);
    void this.#discardAll();
  }

  /** Close the connection; with an error, at once. QEMU's migration fails unless it has ended. */
  async close(error?: Error): Promise<void> {
    await this.file.close().catch(noop);
    await this.#ops.close(error).catch(noop);
  }

  #read(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    if (this.#isStreamEnded) return 0;
    const result = this.#observe(buffer, position);
    if (typeof result === 'number' || result instanceof Uint8Array) return result;
    this.#reading = result;
    return new Promise((resolve, reject) => {
      this.#endRead = () => resolve(0);
      result.then(resolve, reject);
    });
  }

  async #discardAll(): Promise<void> {
    const buffer = new Uint8Array(DISCARD_CHUNK_BYTES);
    try {
      await this.#reading;
      while (!this.#isClosed) await this.#observe(buffer, 0);
    } catch {
      // The connection has been closed.
    }
  }

  /** Read, and note the start and the end of the connection. */
  #observe(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    try {
      const result = this.#ops.getBuffer(buffer, position);
      if (typeof result === 'number' || result instanceof Uint8Array) return this.#noteRead(result);
      return result.then(
        (bytes) => this.#noteRead(bytes),
        (error: unknown) => this.#noteFailure(error),
      );
    } catch (error) {
      return this.#noteFailure(error);
    }
  }

  #noteRead(result: number | Uint8Array): number | Uint8Array {
    if (result === 0 || (result as Uint8Array).length === 0) this.#isClosed = true;
    this.#onStarted();
    return result;
  }

  #noteFailure(error: unknown): never {
    this.#isClosed = true;
    this.#onStarted();
    throw error;
  }
}
