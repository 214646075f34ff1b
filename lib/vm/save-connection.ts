import type { Duplex } from 'node:stream';
import { type ConnectionOps, socketOps } from '../../adapters/index.ts';
import type { MaybePromise } from '../contract/ops.ts';
import { encodeReturnPath } from '../migration/reader/return-path.ts';
import { QemuFile } from '../qemu-file/qemu-file.ts';
import { noop } from '../util/noop.ts';

const DROPPED_AT_ONCE = 65536;

/**
 * The connection that a QEMU saves to. A QEMU that wants an answer does not end its stream before it has it:
 * who has read the stream to its end says so.
 */
export class SaveConnection {
  /** The stream. Closing it leaves the connection open. */
  readonly file: QemuFile;
  readonly #ops: ConnectionOps;
  #isOver = false;
  #hasBroken = false;
  #giveEnd: () => void = noop;
  #noteBegun: () => void = noop;
  /** Resolves with the first bytes, or with the end where none came. */
  readonly begun: Promise<void> = new Promise((resolve) => {
    this.#noteBegun = resolve;
  });
  /** The read that has not been answered. */
  #reading: Promise<unknown> = Promise.resolve();

  /** @param socket - Is this object's from now on. */
  constructor(socket: Duplex) {
    this.#ops = socketOps(socket);
    this.file = new QemuFile({
      getBuffer: (buffer, position) => this.#read(buffer, position),
      ...(this.#ops.sizes === undefined ? {} : { sizes: this.#ops.sizes }),
    });
  }

  /** Whether QEMU has ended the connection, or lost it. */
  get hasBroken(): boolean {
    return this.#hasBroken;
  }

  /** Says that the stream is over. */
  end(): void {
    this.#isOver = true;
    this.#giveEnd();
  }

  /** Tells QEMU that what it sent is safe. */
  async confirm(): Promise<void> {
    await this.#ops.writevBuffer([encodeReturnPath({ name: 'SHUT', value: 0 })], 0);
  }

  /**
   * Goes on reading, to no end, until the connection is closed: a QEMU that waits for somebody to take its last
   * bytes does not listen to its monitor meanwhile, and could not be told to cancel.
   */
  discard(): void {
    void this.file.close().catch(noop);
    void this.#drop();
  }

  /** Ends the connection, at once if there is an error; QEMU's migration fails then, if it has not ended. */
  async close(error?: Error): Promise<void> {
    await this.file.close().catch(noop);
    await this.#ops.close(error).catch(noop);
  }

  #read(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    if (this.#isOver) return 0;
    return new Promise((resolve, reject) => {
      this.#giveEnd = () => resolve(0);
      const reading = this.#note(() => this.#ops.getBuffer(buffer, position));
      this.#reading = reading;
      reading.then(resolve, reject);
    });
  }

  async #drop(): Promise<void> {
    const buffer = new Uint8Array(DROPPED_AT_ONCE);
    try {
      await this.#reading;
      while (!this.#hasBroken) await this.#note(() => this.#ops.getBuffer(buffer, 0));
    } catch {
      // The connection has been closed.
    }
  }

  async #note(read: () => MaybePromise<number | Uint8Array>): Promise<number | Uint8Array> {
    try {
      const answer = await read();
      if (answer === 0 || (answer as Uint8Array).length === 0) this.#hasBroken = true;
      return answer;
    } catch (error) {
      this.#hasBroken = true;
      throw error;
    } finally {
      this.#noteBegun();
    }
  }
}
