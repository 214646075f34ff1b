import { Duplex } from 'node:stream';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';

/** Compresses bytes to something that can follow, and be followed by, others of its kind. */
export type CompressBlock = (bytes: Buffer) => Promise<Buffer>;

/** How a `BlockCompressor` works. */
export interface BlockCompressorOptions {
  compress: CompressBlock;
  /** For zeros: its results are kept, and given again. */
  compressZeros: CompressBlock;
  /** Blocks that are compressed at once. */
  threads: number;
}

/** Bytes of a block: with less, throughput and ratio fall; with more, little is gained (bench/compress.ts). */
export const BLOCK_SIZE = 1_048_576;

/** What is found to be zero or not as a whole. */
const PIECE_SIZE = 65_536;
const ZERO_PIECE = Buffer.alloc(PIECE_SIZE);

/** Bytes of zeros for which a block is divided: fewer are compressed faster than the division costs. */
const MIN_ZEROS = 262_144;

type Callback = (error?: Error | null) => void;

/** A run of bytes in a block. */
interface Run {
  start: number;
  end: number;
  isZero: boolean;
}

/** A block on its way. */
interface Entry {
  /** What it was cut out of, and its bytes; undefined from when they are not needed any more. */
  memory: Buffer | undefined;
  size: number;
  /** Offset in the input, for messages. */
  position: number;
  isStarted: boolean;
  /** Its compressed form, once it is known. */
  outputs: Buffer[] | undefined;
}

/**
 * Cuts what is written to it into blocks, compresses several of them at once, and gives them in order.
 *
 * Twice as many blocks as are compressed at once are under way at most: so there is always one to go on
 * with, and none is taken while the output is not.
 */
export class BlockCompressor extends Duplex {
  readonly #options: BlockCompressorOptions;
  readonly #queue: Entry[] = [];
  readonly #free: Buffer[] = [];
  /** Compressed zeros, by their number. */
  readonly #zeros = new Map<number, Promise<Buffer>>();
  #memory: Buffer | undefined;
  #filled = 0;
  #position = 0;
  #running = 0;
  /** Whether more output may be given: until `push` says no, and from the next `_read` on. */
  #isWanted = true;
  #isGiving = false;
  /** Goes on with a chunk for which there was no room. */
  #goOn: (() => void) | undefined;
  /** The chunk that is not all taken yet. */
  #onTaken: Callback | undefined;
  #onFinal: Callback | undefined;
  /** Told when no thread works any more. */
  #onIdle: (() => void) | undefined;

  constructor(options: BlockCompressorOptions) {
    super({ highWaterMark: BLOCK_SIZE });
    this.#options = options;
  }

  override _write(chunk: Buffer, _encoding: string, callback: Callback): void {
    this.#onTaken = callback;
    this.#take(chunk, 0);
  }

  override _final(callback: Callback): void {
    // Even nothing is to be a valid file.
    if (this.#filled > 0 || this.#position === 0) {
      this.#memory ??= Buffer.alloc(0);
      this.#cut();
    }
    this.#onFinal = callback;
    this.#give();
  }

  override _read(): void {
    this.#isWanted = true;
    this.#give();
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#goOn = undefined;
    this.#queue.length = 0;
    this.#free.length = 0;
    this.#memory = undefined;
    const onTaken = this.#onTaken;
    this.#onTaken = undefined;
    onTaken?.(error ?? new QemuFileError('ECANCELED', 'the compressor was destroyed'));
    // A thread cannot be called off; it is done with its block soon.
    if (this.#running === 0) callback(error);
    else this.#onIdle = () => callback(error);
  }

  #take(chunk: Buffer, from: number): void {
    for (let at = from; at < chunk.length; ) {
      if (this.#memory === undefined) {
        if (this.#queue.length >= 2 * this.#options.threads) {
          this.#goOn = () => this.#take(chunk, at);
          return;
        }
        this.#memory = this.#free.pop() ?? Buffer.allocUnsafeSlow(BLOCK_SIZE);
      }
      const size = chunk.copy(this.#memory, this.#filled, at);
      at += size;
      this.#filled += size;
      if (this.#filled === BLOCK_SIZE) this.#cut();
    }
    const onTaken = this.#onTaken;
    this.#onTaken = undefined;
    onTaken?.();
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
      const entry = this.#queue.find(({ isStarted }) => !isStarted);
      if (entry === undefined) return;
      entry.isStarted = true;
      this.#running++;
      void this.#compress(entry);
    }
  }

  async #compress(entry: Entry): Promise<void> {
    try {
      entry.outputs = await this.#outputsOf(entry);
    } catch (error) {
      this.destroy(toQemuFileError(error, { operation: 'compress', position: entry.position }));
    }
    this.#running--;
    const { memory } = entry;
    entry.memory = undefined;
    if (!this.destroyed) {
      if (memory?.length === BLOCK_SIZE) this.#free.push(memory);
      this.#start();
      this.#give();
    } else if (this.#running === 0) {
      this.#onIdle?.();
    }
  }

  async #outputsOf({ memory, size }: Entry): Promise<Buffer[]> {
    const outputs: Buffer[] = [];
    if (memory === undefined) return outputs;
    for (const { start, end, isZero } of runsOf(memory.subarray(0, size))) {
      if (this.destroyed) break;
      const bytes = memory.subarray(start, end);
      // What is kept is not given away: whoever gets it may write to it, or transfer its memory.
      const output = isZero
        ? Buffer.from(await this.#zerosLike(bytes))
        : await this.#options.compress(bytes);
      outputs.push(output);
    }
    return outputs;
  }

  #zerosLike(bytes: Buffer): Promise<Buffer> {
    let zeros = this.#zeros.get(bytes.length);
    if (zeros === undefined) {
      zeros = this.#options.compressZeros(bytes);
      this.#zeros.set(bytes.length, zeros);
    }
    return zeros;
  }

  #give(): void {
    // Who gets some output may read on at once.
    if (this.#isGiving) return;
    this.#isGiving = true;
    while (this.#isWanted && this.#queue[0]?.outputs !== undefined) {
      for (const output of this.#queue.shift()?.outputs ?? []) {
        this.#isWanted = false;
        // May be answered by a call of `_read` meanwhile, after which no other comes.
        const isWanted = this.push(output);
        this.#isWanted ||= isWanted;
      }
      const goOn = this.#goOn;
      this.#goOn = undefined;
      goOn?.();
    }
    this.#isGiving = false;
    if (this.#onFinal === undefined || this.#queue.length > 0 || this.destroyed) return;
    const onFinal = this.#onFinal;
    this.#onFinal = undefined;
    this.push(null);
    onFinal();
  }
}

/** Divides a block where many zeros are. */
function runsOf(bytes: Buffer): Run[] {
  const runs: Run[] = [];
  let dataStart = 0;
  let zerosStart = 0;
  for (let at = 0; ; at += PIECE_SIZE) {
    const end = Math.min(at + PIECE_SIZE, bytes.length);
    if (end > at && bytes.compare(ZERO_PIECE, 0, end - at, at, end) === 0) continue;
    const zerosEnd = Math.min(at, bytes.length);
    const isAll = zerosStart === 0 && zerosEnd === bytes.length;
    if (zerosEnd - zerosStart >= MIN_ZEROS || (isAll && zerosEnd > 0)) {
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
