import { QemuFileError } from '../../contract/errors.ts';
import type { MigrationEvent, PageVisitor } from '../../migration/format/events.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import { totalLength } from '../../util/total-length.ts';
import { ChunkPipe } from '../chunk-pipe.ts';

/*
 *   bytes that are written ──► pipe ──┐
 *                                     ├─► consumer ──(the file is closed)──► snapshot
 *   readStream(stream) ───────────────┘
 */

/** Bytes that the consumer reads from the pipe at a time. */
const READ_BYTES = 262_144;

/** Callbacks that follow the reading of a stream. */
export interface StreamWatcher {
  /** Receives the pages. */
  readonly pages?: PageVisitor | undefined;
  /** Called with each event. */
  readonly onEvent?: ((event: MigrationEvent) => void) | undefined;
}

/** How a consumer reads a stream and stores what is in it. */
export interface Consumption extends StreamWatcher {
  /** To be called when the stream was read to its end. */
  readonly onRead: () => void;
  /** Settles when what was read may be stored for good, or rejects if it must not. */
  readonly isWanted: Promise<void>;
}

/** Reads a stream and stores what is in it; resolves when that is durable. */
export type Consume = (stream: QemuFile, consumption: Consumption) => Promise<unknown>;

/** A file that takes a migration stream and publishes a snapshot when it is closed. */
export class SnapshotFile extends QemuFile {
  readonly #consumer: Consumer;

  /** @internal */
  constructor(consume: Consume) {
    const consumer = new Consumer(consume);
    super({
      writevBuffer: (buffers) => consumer.write(buffers),
      close: (error) => consumer.close(error),
      sizes: { stagingSize: 262_144, highWaterMark: 1_048_576 },
    });
    this.#consumer = consumer;
  }

  /**
   * Read the stream from another file, to its end. Bytes that are written to this file are dropped from now on. A caller
   * that has to see the stream before the snapshot appears need not read it a second time.
   *
   * @param stream - Its next byte is the first of the stream. It stays open.
   * @param watcher - Sees pages and events.
   * @returns Resolves when the stream was read. The snapshot appears when this file is closed.
   * @throws {QemuFileError} (rejects) `EBUSY` if bytes were written to this file before, or another stream is read;
   *   otherwise as `SnapshotWriter.writeStream`.
   */
  readStream(stream: QemuFile, watcher: StreamWatcher = {}): Promise<void> {
    return this.#consumer.read(stream, watcher);
  }
}

class Consumer {
  readonly #consume: Consume;
  readonly #pipe = new ChunkPipe();
  /** Settles when the snapshot is there or given up; null before the first byte. */
  #done: Promise<unknown> | null = null;
  #isDone = false;
  /** Whether the stream comes from the pipe. */
  #isPiped = false;
  #store: () => void = noop;
  #giveUp: (error: Error) => void = noop;
  readonly #isWanted: Promise<void>;

  constructor(consume: Consume) {
    this.#consume = consume;
    this.#isWanted = new Promise((resolve, reject) => {
      this.#store = resolve;
      this.#giveUp = reject;
    });
    this.#isWanted.catch(noop);
  }

  async read(stream: QemuFile, watcher: StreamWatcher): Promise<void> {
    if (this.#done !== null) {
      const reason = 'the snapshot has a stream already; use another writer';
      throw new QemuFileError('EBUSY', reason, { operation: 'writeSnapshot' });
    }
    await new Promise<void>((resolve, reject) => {
      this.#start(stream, { ...watcher, onRead: resolve, isWanted: this.#isWanted }).catch(reject);
    });
  }

  async write(buffers: readonly Uint8Array[]): Promise<number> {
    this.#readPipe();
    const total = this.#isPiped ? await this.#pipe.write(buffers) : totalLength(buffers);
    if (this.#isDone) await this.#done;
    return total;
  }

  async close(error: Error | undefined): Promise<void> {
    if (error === undefined) {
      this.#readPipe();
      this.#store();
      this.#pipe.end();
      await this.#done;
      return;
    }
    const reason = 'the stream was given up before its end';
    const failure = new QemuFileError('ECANCELED', reason, {
      operation: 'writeSnapshot',
      cause: error,
    });
    this.#giveUp(failure);
    this.#pipe.end(failure);
    await this.#done?.catch(noop);
  }

  #readPipe(): void {
    if (this.#done !== null) return;
    this.#isPiped = true;
    const pipe = this.#pipe;
    const input = new QemuFile({
      getBuffer: (space) => pipe.read(space),
      sizes: { lookAheadSize: READ_BYTES },
    });
    void this.#start(input, { onRead: noop, isWanted: this.#isWanted })
      .catch(noop)
      .then(() => input.close())
      .catch(noop);
  }

  #start(stream: QemuFile, consumption: Consumption): Promise<unknown> {
    const done = this.#consume(stream, consumption).finally(() => {
      this.#isDone = true;
      this.#pipe.leave();
    });
    done.catch(noop);
    this.#done = done;
    return done;
  }
}
