import { type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';

/** Bytes that are gathered before they are written. */
const BATCH_BYTES = 1_048_576;
/** Batches that may wait for the file, the one that is being written included. */
const MAX_BATCHES = 4;

/** Bytes and the places that they go to. */
interface Batch {
  readonly bytes: Uint8Array;
  used: number;
  /** Start in the file, start in `bytes` and length of each run of adjacent bytes, one after another. */
  readonly runs: number[];
}

/**
 * Writes bytes to places in a file, in the order of the calls: adjacent ones together, while the next ones are
 * gathered.
 */
export class PlacedWrites {
  readonly #file: QemuFile;
  readonly #free: Batch[] = [];
  readonly #queue: Batch[] = [];
  #batch: Batch = newBatch();
  /** Place after the last byte of the open run. */
  #end = -1;
  #writing: Promise<void> | null = null;
  #failure: QemuFileError | null = null;

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
      if (this.#end === at + done) (batch.runs[batch.runs.length - 1] as number) += take;
      else batch.runs.push(at + done, batch.used, take);
      batch.used += take;
      done += take;
      this.#end = at + done;
      if (batch.used === BATCH_BYTES) this.#seal();
    }
  }

  /** Wait until there is room for more; throw the failure of the file. */
  ready(): Promise<void> | void {
    if (this.#failure === null && this.#queue.length < MAX_BATCHES) return;
    return this.#waitForRoom();
  }

  async #waitForRoom(): Promise<void> {
    while (this.#queue.length >= MAX_BATCHES && this.#failure === null) await this.#writing;
    if (this.#failure !== null) throw this.#failure;
  }

  /** Write everything that was put. */
  async flush(): Promise<void> {
    this.#seal();
    while (this.#writing !== null) await this.#writing;
    if (this.#failure !== null) throw this.#failure;
  }

  #seal(): void {
    if (this.#batch.used > 0) {
      this.#queue.push(this.#batch);
      this.#batch = this.#free.pop() ?? newBatch();
      this.#end = -1;
    }
    this.#writing ??= this.#next();
  }

  /** Write the first batch of the queue, then start with the next one. */
  #next(): Promise<void> | null {
    const [batch] = this.#queue;
    if (batch === undefined || this.#failure !== null) return null;
    return this.#write(batch).then(
      () => {
        this.#queue.shift();
        batch.used = 0;
        batch.runs.length = 0;
        this.#free.push(batch);
        this.#writing = this.#next();
      },
      (error: unknown) => {
        this.#failure = toQemuFileError(error);
        this.#writing = null;
      },
    );
  }

  async #write({ bytes, runs }: Batch): Promise<void> {
    for (let index = 0; index < runs.length; index += 3) {
      const start = runs[index + 1] as number;
      const length = runs[index + 2] as number;
      const part = bytes.subarray(start, start + length);
      await this.#file.putBufferAt(part, runs[index] as number);
    }
  }
}

function newBatch(): Batch {
  return { bytes: new Uint8Array(BATCH_BYTES), used: 0, runs: [] };
}
