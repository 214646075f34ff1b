import type { Transform } from 'node:stream';
import vm from 'node:vm';
import zlib from 'node:zlib';
import { Decompress } from 'fzstd';
import { noop } from '../../util/noop.ts';

/*
 * Decoders of one multifd channel each: its payloads are slices of one compressed stream, flushed at the
 * end of each, so that what a payload stands for comes out at once, and all that came before is needed.
 */

/** How the payloads of a channel are compressed. */
export type PacketCompression = 'zlib' | 'zstd';

/** Decodes the payloads of a channel, one after the other. */
export interface PacketDecoder {
  /**
   * Decodes the next payload, when the one before is done. Of a decoder that has failed nothing more comes.
   *
   * @param payload - Must not change before the answer.
   * @param size - Bytes that must come out, no more and no fewer.
   * @returns The bytes, valid until the next call.
   * @throws Error (or rejects) with what is wrong as a clause.
   */
  decode(payload: Uint8Array, size: number): Promise<Uint8Array> | Uint8Array;
  /** Frees what it holds; a `decode` under way is rejected. */
  close(): void;
}

/** Window of zstd's level 20, the highest that QEMU can be set to, as a power of two. */
const MAX_WINDOW_LOG = 25;

/** `ZSTD_d_windowLogMax`. */
const WINDOW_LOG_MAX = 100;

/** Bytes that Node's decoders give at a time. */
const CHUNK_SIZE = 65_536;

/** As the types of Node 20 do not know it. */
type CreateZstd = (options: zlib.BrotliOptions) => Transform;

/** Makes a decoder for a channel; for zstd, Node's own where it has one (from 22.15 on), for it is faster. */
export function packetDecoder(compression: PacketCompression): PacketDecoder {
  const options = { chunkSize: CHUNK_SIZE };
  if (compression === 'zlib') return new NodeDecoder(zlib.createInflate(options));
  const { createZstdDecompress } = zlib as { createZstdDecompress?: CreateZstd };
  if (createZstdDecompress === undefined) return new ScriptZstdDecoder();
  const params = { [WINDOW_LOG_MAX]: MAX_WINDOW_LOG };
  return new NodeDecoder(createZstdDecompress({ ...options, params }));
}

/** Gathers what comes out for one payload, and never more than that should be. */
class Output {
  #bytes = Buffer.alloc(0);
  #size = 0;
  #filled = 0;

  begin(size: number): void {
    if (this.#bytes.length < size) this.#bytes = Buffer.allocUnsafeSlow(size);
    this.#size = size;
    this.#filled = 0;
  }

  /** @throws Error if that is too much. */
  add(chunk: Uint8Array): void {
    if (chunk.length > this.#size - this.#filled) {
      throw new Error(`more than the ${this.#size} bytes of its pages come out`);
    }
    this.#bytes.set(chunk, this.#filled);
    this.#filled += chunk.length;
  }

  /** @throws Error if that is too little. */
  end(): Uint8Array {
    if (this.#filled < this.#size) {
      throw new Error(`${this.#filled} of the ${this.#size} bytes of its pages come out`);
    }
    return this.#bytes.subarray(0, this.#size);
  }
}

/** A decoder over one of node:zlib's streams. */
class NodeDecoder implements PacketDecoder {
  readonly #stream: Transform;
  readonly #output = new Output();
  #failure: Error | null = null;
  #reject: (error: Error) => void = noop;

  constructor(stream: Transform) {
    this.#stream = stream;
    stream.on('data', (chunk: Uint8Array) => {
      try {
        this.#output.add(chunk);
      } catch (error) {
        this.#fail(error as Error);
      }
    });
    stream.on('error', (error) => this.#fail(error));
    // The stream then does not call back a write that it has not used up.
    stream.on('end', () => this.#fail(new Error('the compressed data ended before it')));
  }

  decode(payload: Uint8Array, size: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      this.#reject = reject;
      this.#output.begin(size);
      this.#stream.write(payload, (error) => {
        if (this.#failure !== null) return;
        if (error) return this.#fail(error);
        // What came out last may not have been handed on yet.
        while (this.#stream.read() !== null);
        try {
          resolve(this.#output.end());
        } catch (short) {
          this.#fail(short as Error);
        }
      });
    });
  }

  close(): void {
    this.#fail(new Error('the decoder was closed'));
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#reject(this.#failure);
    this.#stream.destroy();
  }
}

const ZSTD_MAGIC = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd);

/** Magic, descriptor, window, number of a dictionary (4 bytes), size of the content (8). */
const MAX_HEADER = 18;

const LAST_BLOCK = 1;
const BLOCK_HEADER = 3;
const RLE_BLOCK = 1;
const RESERVED_BLOCK = 3;
/** Most bytes that a block stands for. */
const MAX_BLOCK = 131_072;

/** Milliseconds after which the work on one payload, of 512 KiB at most, is called off. */
const MAX_WORK = 5000;

/**
 * A decoder for zstd in JavaScript.
 *
 * `fzstd` trusts what it is given in some respects, so it is given only frames whose window and blocks
 * are of sizes that may be.
 */
export class ScriptZstdDecoder implements PacketDecoder {
  readonly #output = new Output();
  readonly #stream = new Decompress((chunk) => this.#output.add(chunk));
  readonly #mostWork: number;
  #hasHeader = false;
  #failure: Error | null = null;

  /** @param mostWork - Milliseconds that one payload may take. */
  constructor(mostWork: number = MAX_WORK) {
    this.#mostWork = mostWork;
  }

  decode(payload: Uint8Array, size: number): Uint8Array {
    if (this.#failure !== null) throw this.#failure;
    try {
      this.#output.begin(size);
      const blocks = this.#hasHeader ? payload : withLongHeader(payload);
      checkBlocks(blocks, this.#hasHeader ? 0 : MAX_HEADER);
      this.#hasHeader = true;
      limited(() => {
        this.#stream.push(blocks);
      }, this.#mostWork);
      // It keeps an empty view of the end of each payload, and with that the payload.
      Object.assign(this.#stream, { c: [] });
      return this.#output.end();
    } catch (error) {
      this.#failure = error as Error;
      throw error;
    }
  }

  close(): void {
    this.#failure ??= new Error('the decoder was closed');
  }
}

/**
 * Gives the first payload with the longest header a frame may have: `fzstd` waits for as many bytes
 * before it decodes anything.
 */
function withLongHeader(payload: Uint8Array): Uint8Array {
  const descriptor = payload[4] ?? 0;
  const windowSize = payload[5] ?? 0;
  const isSingle = (descriptor & 0x20) !== 0;
  const dictionary = [0, 1, 2, 4][descriptor & 3] as number;
  const content = [0, 2, 4, 8][descriptor >> 6] as number;
  const size = 6 + dictionary + content;
  const isZstd = ZSTD_MAGIC.every((byte, at) => payload[at] === byte);
  if (!isZstd || payload.length < size) throw new Error('it does not begin with a zstd frame');
  // Frames of one segment are of a size known beforehand, which a channel's is not.
  if (isSingle || dictionary > 0 || (descriptor & 0x18) !== 0) {
    throw new Error(`a zstd frame with the descriptor 0x${descriptor.toString(16)} is not known`);
  }
  const windowLog = 10 + (windowSize >> 3);
  if (windowLog > MAX_WINDOW_LOG || (windowLog === MAX_WINDOW_LOG && (windowSize & 7) > 0)) {
    throw new Error(`its window is larger than 2^${MAX_WINDOW_LOG} bytes`);
  }
  const bytes = new Uint8Array(MAX_HEADER + payload.length - size);
  bytes.set(ZSTD_MAGIC);
  bytes[4] = 0xc3 | (descriptor & 0x04);
  bytes[5] = windowSize;
  bytes.set(payload.subarray(size), MAX_HEADER);
  return bytes;
}

/** Checks that whole blocks of a frame lie from an offset on to the end. */
function checkBlocks(bytes: Uint8Array, from: number): void {
  let at = from;
  while (at < bytes.length) {
    const low = bytes[at] as number;
    const type = (low >> 1) & 3;
    const size = (low >> 3) | ((bytes[at + 1] ?? 0) << 5) | ((bytes[at + 2] ?? 0) << 13);
    if (type === RESERVED_BLOCK || size > MAX_BLOCK) throw new Error('a zstd block cannot be');
    if ((low & LAST_BLOCK) !== 0) throw new Error('the zstd frame ends in it');
    at += BLOCK_HEADER + (type === RLE_BLOCK ? 1 : size);
  }
  if (at !== bytes.length) throw new Error('it does not end with a zstd block');
}

const WORK = new vm.Script('work()');
/** What the script sees; made when it is first needed, for that takes time. */
let world: vm.Context | null = null;

/**
 * Calls a function, and has it end in time: a damaged block of 20 bytes can keep `fzstd` busy for minutes.
 *
 * @throws Error as the function does, or when it took too long.
 */
function limited(work: () => void, timeout: number): void {
  world ??= vm.createContext({});
  world.work = work;
  try {
    WORK.runInContext(world, { timeout });
  } catch (error) {
    const { code, message } = error as { code?: unknown; message: string };
    const isLate = code === 'ERR_SCRIPT_EXECUTION_TIMEOUT';
    throw new Error(isLate ? `it takes more than ${timeout} ms` : message);
  } finally {
    world.work = null;
  }
}
