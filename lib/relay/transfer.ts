import type { ChunkSource } from '../qemu-file/get/chunk-source.ts';
import type { QemuFile } from '../qemu-file/qemu-file.ts';
import { noop } from '../util/noop.ts';

/*
 *   source ─takeChunk─► next ─(all gates open)─► sinks ─(all have taken it)─► recycleChunk
 *
 * One chunk is fetched ahead while the sinks send the chunks before it. Failures of the files are for the
 * caller to watch: the transfer then stands still.
 */

/** `moving`: chunks are available; `waiting`: the source has none now; `ended`: it will have no more. */
type TransferState = 'moving' | 'waiting' | 'ended';

/** Moves all bytes of a file into others: by reference, and no faster than the slowest sink takes them. */
export class Transfer {
  /** Resolves when the source has emitted 'end'; never rejects. */
  readonly ended: Promise<void>;
  readonly #source: QemuFile;
  readonly #chunks: ChunkSource;
  readonly #onTaken: ((chunk: Uint8Array) => void) | undefined;
  #sinks: readonly QemuFile[];
  #state: TransferState = 'moving';
  #next: Uint8Array | null = null;

  /**
   * Start to move bytes.
   *
   * @param source - Its unread bytes are moved as well. Listeners of its 'data' get copies.
   * @param sinks - They are not ended. Without any, bytes are dropped.
   * @param onTaken - Receives each chunk once all sinks took it. The chunk is valid until it returns.
   */
  constructor(source: QemuFile, sinks: readonly QemuFile[], onTaken?: (chunk: Uint8Array) => void) {
    this.#source = source;
    this.#sinks = sinks;
    this.#onTaken = onTaken;
    this.ended = new Promise((resolve) => source.once('end', resolve));
    this.#chunks = source.startTransfer();
    for (const sink of sinks) sink.on('drain', this.#move);
    this.#move();
  }

  /** Drop the bytes that come from now on. */
  drop(): void {
    for (const sink of this.#sinks) sink.off('drain', this.#move);
    this.#sinks = [];
    this.#move();
  }

  readonly #move = (): void => {
    while (this.#state === 'moving') {
      this.#next ??= this.#chunks.takeChunk();
      if (this.#next === null) {
        this.#state = 'waiting';
        this.#chunks.waitForChunk().then(this.#onChunk, noop);
        return;
      }
      if (this.#areSinksFull()) return;
      const chunk = this.#next;
      this.#next = null;
      this.#put(chunk);
    }
  };

  readonly #onChunk = (isAvailable: boolean): void => {
    this.#state = isAvailable ? 'moving' : 'ended';
    if (isAvailable) {
      this.#move();
      return;
    }
    for (const sink of this.#sinks) sink.off('drain', this.#move);
    this.#chunks.stopTransfer();
    this.#source.resume();
  };

  #areSinksFull(): boolean {
    let areFull = false;
    // Ask all of them: a sink emits 'drain' only after it was asked.
    for (const sink of this.#sinks) if (sink.rateLimitExceeded()) areFull = true;
    return areFull;
  }

  #put(chunk: Uint8Array): void {
    const source = this.#source;
    // A listener may keep the chunk, whose memory is used again.
    if (source.listenerCount('data') > 0) source.emit('data', Buffer.from(chunk));
    const sinks = this.#sinks;
    let users = sinks.length;
    const ends = this.#onTaken === undefined ? [] : sinks.map((sink) => endAfter(sink, chunk));
    const release = (): void => {
      users -= 1;
      if (users > 0) return;
      const isTaken = ends.every((end, at) => (sinks[at] as QemuFile).sentPosition >= end);
      if (isTaken && sinks.length > 0) this.#onTaken?.(chunk);
      this.#chunks.recycleChunk(chunk);
    };
    if (users === 0) this.#chunks.recycleChunk(chunk);
    for (const sink of sinks) sink.putBufferAsync(chunk, release);
  }
}

/** Return the put position of a sink after it was given a chunk. */
function endAfter(sink: QemuFile, chunk: Uint8Array): number {
  return sink.putPosition + chunk.length;
}
