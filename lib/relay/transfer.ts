import type { ChunkSource } from '../qemu-file/get/chunk-source.ts';
import type { QemuFile } from '../qemu-file/qemu-file.ts';
import { noop } from '../util/noop.ts';

/**
 * Moves all bytes of a file into others: by reference, no faster than all sinks take them, and past the
 * stream of the source, so that what it was read into is used again once the sinks have taken it: memory
 * of its own for each chunk costs as much as moving the bytes does (bench/relay.ts).
 *
 * @param source - What was not consumed yet is moved.
 * @param sinks - Are not ended.
 * @returns Resolves once the source has ended and said so. Failures are the caller's to watch for: then it
 *   never does.
 */
export function transfer(source: QemuFile, sinks: readonly QemuFile[]): Promise<void> {
  return new Promise((resolve) => {
    source.once('end', resolve);
    new HandOver(source, sinks).go();
  });
}

class HandOver {
  readonly #source: QemuFile;
  readonly #get: ChunkSource;
  readonly #sinks: readonly QemuFile[];
  #next: Uint8Array | null = null;
  #isWaiting = false;
  #hasEnded = false;

  constructor(source: QemuFile, sinks: readonly QemuFile[]) {
    this.#source = source;
    this.#sinks = sinks;
    this.#get = source.startTransfer();
    for (const sink of sinks) sink.on('drain', this.#goOn);
  }

  /** Moves what is there and the sinks take; one chunk is fetched ahead, while they work on the former ones. */
  go(): void {
    while (!this.#isWaiting && !this.#hasEnded) {
      this.#next ??= this.#get.takeChunk();
      if (this.#next === null) {
        this.#wait();
        return;
      }
      if (this.#areFull()) return;
      this.#put(this.#next);
      this.#next = null;
    }
  }

  readonly #goOn = (): void => this.go();

  #areFull(): boolean {
    let full = false;
    // All are asked: only one that was is going to say when it has drained.
    for (const sink of this.#sinks) if (sink.rateLimitExceeded()) full = true;
    return full;
  }

  #put(chunk: Uint8Array): void {
    const source = this.#source;
    // Who listens may keep what it gets.
    if (source.listenerCount('data') > 0) source.emit('data', Buffer.from(chunk));
    let users = this.#sinks.length;
    const release = (): void => {
      users -= 1;
      if (users === 0) this.#get.recycleChunk(chunk);
    };
    for (const sink of this.#sinks) sink.putBufferAsync(chunk, release);
  }

  #wait(): void {
    this.#isWaiting = true;
    this.#get.waitForChunk().then(this.#arrived, noop);
  }

  readonly #arrived = (isMore: boolean): void => {
    this.#isWaiting = false;
    if (isMore) {
      this.go();
      return;
    }
    this.#hasEnded = true;
    for (const sink of this.#sinks) sink.off('drain', this.#goOn);
    this.#get.stopTransfer();
    this.#source.resume();
  };
}
