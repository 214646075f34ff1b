import { type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';

/** Bytes that are gathered before they are written. */
const BATCH_BYTES = 1_048_576;
/** Batches that are written at a time. */
const MAX_WRITING = 4;
/** Batches that may wait for the file, those that are being written included. */
const MAX_BATCHES = 8;

/** Bytes and the places that they go to. */
interface Batch {
  readonly bytes: Uint8Array;
  used: number;
  /** Start in the file, start in `bytes` and length of each run of adjacent bytes, one after another. */
  readonly runs: number[];
  /** Lowest place, and the one after the highest. */
  from: number;
  to: number;
}

/**
 * Writes bytes to places in a file, adjacent ones together, while the next ones are gathered. Bytes that are put
 * later to the same place win: batches are written at the same time only if each lies after the one before.
 */
export class PlacedWrites {
  readonly #file: QemuFile;
  readonly #free: Batch[] = [];
  /** Batches in the order of the calls; the first `#writing` of them are being written, or are done. */
  readonly #queue: Batch[] = [];
  #writing = 0;
  /** End of the places of all batches that are being written. */
  #writingTo = 0;
  #batch: Batch = newBatch();
  /** Place after the last byte of the open run. */
  #end = -1;
  #failure: QemuFileError | null = null;
  #wake: (() => void) | null = null;

  constructor(file: QemuFile) {
    this.#file = file;
  }

  /** Put bytes, copied, at an offset of the file. */
  put(at: number, bytes: Uint8Array): void {
    let done = 0;
    while (done < bytes.length) {
      const batch = this.#batch;
      const take = Math.min(bytes.length - done, BATCH_BYTES - batch.used);
      const part = take === bytes.length ? bytes : bytes.subarray(done, done + take);
      batch.bytes.set(part, batch.used);
      const place = at + done;
      if (this.#end === place) (batch.runs[batch.runs.length - 1] as number) += take;
      else batch.runs.push(place, batch.used, take);
      batch.from = Math.min(batch.from, place);
      batch.to = Math.max(batch.to, place + take);
      batch.used += take;
      done += take;
      this.#end = at + done;
      if (batch.used === BATCH_BYTES) this.#seal();
    }
  }

  /** Wait until there is room for more; throw the failure of the file. */
  ready(): Promise<void> | void {
    if (this.#failure === null && this.#queue.length < MAX_BATCHES) return;
    return this.#waitFor(MAX_BATCHES - 1);
  }

  /** Write everything that was put. */
  flush(): Promise<void> {
    this.#seal();
    return this.#waitFor(0);
  }

  /** Wait until no more than `count` batches are left; throw the failure of the file when no write is running. */
  async #waitFor(count: number): Promise<void> {
    while (this.#queue.length > count && (this.#failure === null || this.#writing > 0)) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#failure !== null) throw this.#failure;
  }

  #seal(): void {
    if (this.#batch.used > 0) {
      this.#queue.push(this.#batch);
      this.#batch = this.#free.pop() ?? newBatch();
      this.#end = -1;
    }
    this.#startWrites();
  }

  /** Start to write those batches of the queue whose turn it is. */
  #startWrites(): void {
    while (this.#failure === null && this.#writing < MAX_WRITING) {
      const batch = this.#queue[this.#writing];
      if (batch === undefined || (this.#writing > 0 && batch.from < this.#writingTo)) return;
      this.#writing += 1;
      this.#writingTo = batch.to;
      void this.#write(batch);
    }
  }

  async #write(batch: Batch): Promise<void> {
    const { bytes, runs } = batch;
    try {
      for (let index = 0; index < runs.length; index += 3) {
        const start = runs[index + 1] as number;
        const length = runs[index + 2] as number;
        await this.#file.putBufferAt(bytes.subarray(start, start + length), runs[index] as number);
      }
    } catch (error) {
      this.#failure ??= toQemuFileError(error);
    }
    this.#queue.splice(this.#queue.indexOf(batch), 1);
    this.#writing -= 1;
    batch.used = 0;
    runs.length = 0;
    batch.from = Number.POSITIVE_INFINITY;
    batch.to = 0;
    this.#free.push(batch);
    this.#startWrites();
    this.#wake?.();
    this.#wake = null;
  }
}

function newBatch(): Batch {
  return {
    bytes: new Uint8Array(BATCH_BYTES),
    used: 0,
    runs: [],
    from: Number.POSITIVE_INFINITY,
    to: 0,
  };
}
