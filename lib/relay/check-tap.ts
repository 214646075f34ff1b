import { QemuFile } from '../qemu-file/qemu-file.ts';
import { noop } from '../util/noop.ts';

/**
 * Reads the forward bytes of a relay while they pass. The relay fails with the error that it rejects with.
 * The file is the check's own; bytes that the check leaves unread are dropped when it has settled.
 */
export type RelayCheck = (stream: QemuFile) => Promise<void>;

/** Size in bytes of the check's look-ahead, the only memory that the bytes are copied into. */
const LOOK_AHEAD_SIZE = 262_144;

/**
 * A sink of a relay that a check reads from. It takes bytes as fast as the check reads them, and at once
 * when the check has settled. Bytes are copied into the look-ahead of the check's file, whose memory is
 * used again and again: a copy of its own for every batch costs more in garbage collection than the check
 * itself (bench/commands.ts).
 */
export class CheckTap {
  /** The sink. */
  readonly file: QemuFile;
  /** Settles with the check. */
  readonly done: Promise<void>;
  readonly #stream: QemuFile;
  /** The batch that the sink was given, as far as the check has not read it. */
  #batch: readonly Uint8Array[] = [];
  #entry = 0;
  #offset = 0;
  /** Answers the sink; called when the check has read the batch and asks for more. */
  #finishBatch: () => void = noop;
  #wakeReader: () => void = noop;
  #state: 'open' | 'ended' | 'settled' = 'open';
  #error: Error | null = null;

  constructor(check: RelayCheck) {
    this.file = new QemuFile({
      writevBuffer: (buffers) => this.#write(buffers),
      close: (error) => {
        this.#error = error ?? null;
        if (this.#state === 'open') this.#state = 'ended';
        this.#wakeReader();
      },
    });
    this.#stream = new QemuFile(
      { getBuffer: (target) => this.#read(target) },
      { lookAheadSize: LOOK_AHEAD_SIZE },
    );
    this.done = this.#run(check);
    this.done.catch(noop);
  }

  async #run(check: RelayCheck): Promise<void> {
    try {
      await check(this.#stream);
    } finally {
      this.#state = 'settled';
      this.#batch = [];
      this.#finishBatch();
      this.#stream.destroy();
    }
  }

  #write(buffers: readonly Uint8Array[]): number | Promise<number> {
    const length = buffers.reduce((sum, entry) => sum + entry.length, 0);
    if (this.#state === 'settled') return length;
    this.#batch = buffers;
    this.#entry = 0;
    this.#offset = 0;
    return new Promise((resolve) => {
      this.#finishBatch = () => {
        this.#finishBatch = noop;
        resolve(length);
      };
      this.#wakeReader();
    });
  }

  #read(target: Uint8Array): number | Promise<number> {
    const length = this.#copyTo(target);
    if (length > 0) return length;
    // Asking again is the check's word that it has read the batch, and not before.
    this.#finishBatch();
    if (this.#error !== null) throw this.#error;
    if (this.#state !== 'open') return 0;
    return new Promise((resolve, reject) => {
      this.#wakeReader = () => {
        this.#wakeReader = noop;
        try {
          resolve(this.#read(target));
        } catch (error) {
          reject(error);
        }
      };
    });
  }

  /** Copy as much of the batch as fits into `target`. */
  #copyTo(target: Uint8Array): number {
    let length = 0;
    while (length < target.length) {
      const entry = this.#batch[this.#entry];
      if (entry === undefined) break;
      const end = Math.min(entry.length, this.#offset + target.length - length);
      target.set(entry.subarray(this.#offset, end), length);
      length += end - this.#offset;
      this.#offset = end;
      if (end === entry.length) {
        this.#entry += 1;
        this.#offset = 0;
      }
    }
    return length;
  }
}
