import { Duplex } from 'node:stream';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';

/** Compresses bytes to a member or frame that can be concatenated with others. */
export type CompressBlock = (bytes: Buffer) => Promise<Buffer>;

/** Options of a `BlockCompressor`. */
export interface BlockCompressorOptions {
  /** Compresses data. */
  compress: CompressBlock;
  /** Compresses runs of zeros. Its results are kept and reused. */
  compressZeros: CompressBlock;
  /** Number of blocks that are compressed at the same time. */
  threads: number;
}

/** Bytes of a block. Smaller blocks lower throughput and ratio, larger ones gain little (bench/compress.ts). */
export const BLOCK_BYTES = 1_048_576;

/** Granularity at which zeros are detected, in bytes. */
const SCAN_BYTES = 65_536;
const ZEROS = Buffer.alloc(SCAN_BYTES);

/** Shortest run of zeros that is cut out of a block: shorter runs are compressed faster than they are cut out. */
const MIN_ZEROS_BYTES = 262_144;

type Callback = (error?: Error | null) => void;

/** A run of bytes in a block that is all zeros or all data. */
interface Run {
  start: number;
  end: number;
  isZero: boolean;
}

/** A block that is being compressed, or waits for that or for its output. */
interface Block {
  /** Holds the bytes of the block; undefined once the block is compressed. */
  memory: Buffer | undefined;
  size: number;
  /** Offset in the input, for messages. */
  position: number;
  isStarted: boolean;
  /** The compressed members or frames, once they are known. */
  outputs: Buffer[] | undefined;
}

/**
 * Cuts its input into blocks, compresses several of them at the same time, and outputs the results in order.
 *
 * The queue holds at most twice as many blocks as there are threads: enough that a thread always finds the next
 * block, and few enough that the input stops when the output is not read.
 */
export class BlockCompressor extends Duplex {
  readonly #options: BlockCompressorOptions;
  readonly #queue: Block[] = [];
  /** Memory of compressed blocks, for reuse. */
  readonly #free: Buffer[] = [];
  /** Compressed runs of zeros, by their length in bytes. */
  readonly #zeros = new Map<number, Promise<Buffer>>();
  #memory: Buffer | undefined;
  #filled = 0;
  #position = 0;
  #running = 0;
  /** True until `push` returns false, and again after the next `_read`. */
  #canPush = true;
  #isPushing = false;
  /** Copies the rest of a chunk for which the queue had no room. */
  #resumeWrite: (() => void) | undefined;
  #writeCallback: Callback | undefined;
  #finalCallback: Callback | undefined;
  /** Called when the last block that is being compressed is done. */
  #onIdle: (() => void) | undefined;

  constructor(options: BlockCompressorOptions) {
    super({ highWaterMark: BLOCK_BYTES });
    this.#options = options;
  }

  override _write(chunk: Buffer, _encoding: string, callback: Callback): void {
    this.#writeCallback = callback;
    this.#copy(chunk, 0);
  }

  override _final(callback: Callback): void {
    // An empty input must result in a valid file.
    if (this.#filled > 0 || this.#position === 0) {
      this.#memory ??= Buffer.alloc(0);
      this.#cut();
    }
    this.#finalCallback = callback;
    this.#pushOutputs();
  }

  override _read(): void {
    this.#canPush = true;
    this.#pushOutputs();
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#resumeWrite = undefined;
    this.#queue.length = 0;
    this.#free.length = 0;
    this.#memory = undefined;
    const writeCallback = this.#writeCallback;
    this.#writeCallback = undefined;
    writeCallback?.(error ?? new QemuFileError('ECANCELED', 'the compressor was destroyed'));
    // A thread cannot be cancelled, but it finishes its block soon.
    if (this.#running === 0) callback(error);
    else this.#onIdle = () => callback(error);
  }

  #copy(chunk: Buffer, from: number): void {
    for (let at = from; at < chunk.length; ) {
      if (this.#memory === undefined) {
        if (this.#queue.length >= 2 * this.#options.threads) {
          this.#resumeWrite = () => this.#copy(chunk, at);
          return;
        }
        this.#memory = this.#free.pop() ?? Buffer.allocUnsafeSlow(BLOCK_BYTES);
      }
      const size = chunk.copy(this.#memory, this.#filled, at);
      at += size;
      this.#filled += size;
      if (this.#filled === BLOCK_BYTES) this.#cut();
    }
    const writeCallback = this.#writeCallback;
    this.#writeCallback = undefined;
    writeCallback?.();
  }

  #cut(): void {
    const memory = this.#memory;
    const size = this.#filled;
    const position = this.#position;
    this.#queue.push({ memory, size, position, isStarted: false, outputs: undefined });
    this.#memory = undefined;
    this.#filled = 0;
    this.#position += size;
    this.#start();
  }

  #start(): void {
    while (this.#running < this.#options.threads) {
      const block = this.#queue.find(({ isStarted }) => !isStarted);
      if (block === undefined) return;
      block.isStarted = true;
      this.#running++;
      void this.#compress(block);
    }
  }

  async #compress(block: Block): Promise<void> {
    try {
      block.outputs = await this.#outputsOf(block);
    } catch (error) {
      this.destroy(toQemuFileError(error, { operation: 'compress', position: block.position }));
    }
    this.#running--;
    const { memory } = block;
    block.memory = undefined;
    if (!this.destroyed) {
      if (memory?.length === BLOCK_BYTES) this.#free.push(memory);
      this.#start();
      this.#pushOutputs();
    } else if (this.#running === 0) {
      this.#onIdle?.();
    }
  }

  async #outputsOf({ memory, size }: Block): Promise<Buffer[]> {
    const outputs: Buffer[] = [];
    if (memory === undefined) return outputs;
    for (const { start, end, isZero } of runsOf(memory.subarray(0, size))) {
      if (this.destroyed) break;
      const bytes = memory.subarray(start, end);
      // The cached result is copied, because the consumer may write to its chunks or transfer their memory.
      const output = isZero
        ? Buffer.from(await this.#compressedZeros(bytes))
        : await this.#options.compress(bytes);
      outputs.push(output);
    }
    return outputs;
  }

  #compressedZeros(bytes: Buffer): Promise<Buffer> {
    let zeros = this.#zeros.get(bytes.length);
    if (zeros === undefined) {
      zeros = this.#options.compressZeros(bytes);
      this.#zeros.set(bytes.length, zeros);
    }
    return zeros;
  }

  #pushOutputs(): void {
    // `push` may call a consumer that reads again at once.
    if (this.#isPushing) return;
    this.#isPushing = true;
    while (this.#canPush && this.#queue[0]?.outputs !== undefined) {
      for (const output of this.#queue.shift()?.outputs ?? []) {
        this.#canPush = false;
        // `push` may call `_read` and still return false; no second `_read` follows then.
        const canPush = this.push(output);
        this.#canPush ||= canPush;
      }
      const resumeWrite = this.#resumeWrite;
      this.#resumeWrite = undefined;
      resumeWrite?.();
    }
    this.#isPushing = false;
    if (this.#finalCallback === undefined || this.#queue.length > 0 || this.destroyed) return;
    const finalCallback = this.#finalCallback;
    this.#finalCallback = undefined;
    this.push(null);
    finalCallback();
  }
}

/** Divide a block into runs of data and long runs of zeros. */
function runsOf(bytes: Buffer): Run[] {
  const runs: Run[] = [];
  let dataStart = 0;
  let zerosStart = 0;
  for (let at = 0; ; at += SCAN_BYTES) {
    const end = Math.min(at + SCAN_BYTES, bytes.length);
    if (end > at && bytes.compare(ZEROS, 0, end - at, at, end) === 0) continue;
    const zerosEnd = Math.min(at, bytes.length);
    const isAll = zerosStart === 0 && zerosEnd === bytes.length;
    if (zerosEnd - zerosStart >= MIN_ZEROS_BYTES || (isAll && zerosEnd > 0)) {
      if (zerosStart > dataStart) runs.push({ start: dataStart, end: zerosStart, isZero: false });
      runs.push({ start: zerosStart, end: zerosEnd, isZero: true });
      dataStart = zerosEnd;
    }
    zerosStart = end;
    if (at >= bytes.length) break;
  }
  if (dataStart < bytes.length || bytes.length === 0) {
    runs.push({ start: dataStart, end: bytes.length, isZero: false });
  }
  return runs;
}
