import type { Transform } from 'node:stream';
import zlib from 'node:zlib';
import { QemuFileError } from '../../contract/errors.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import { MigrationStreamError, type StreamFault } from '../format/stream-error.ts';
import { ZstdFrames } from './zstd-frames.ts';

/*
 * Reads a compressed file with node:zlib. One compressed chunk is in a decompressor at a time; the bytes of it that
 * follow the end of a member belong to the next member or to padding.
 */

/** Most bytes, compressed or decompressed, of one chunk. */
const MAX_CHUNK_BYTES = 262_144;

/** A decompressor of node:zlib. */
export type Decompressor = Transform & { readonly bytesWritten: number };

/** Errors of node:zlib that mean a fault of the data. */
const FAULTS: Readonly<Record<string, StreamFault>> = {
  Z_BUF_ERROR: 'truncated',
  Z_DATA_ERROR: 'corrupt',
  Z_NEED_DICT: 'unsupported',
  ZSTD_error_frameParameter_windowTooLarge: 'unsupported',
  ZSTD_error_dictionary_wrong: 'unsupported',
};

type Create = (options: zlib.ZlibOptions) => Decompressor;

/** Return a function that creates a decompressor; undefined if this Node has none for the format. */
export function decompressorOf(format: string): (() => Decompressor) | undefined {
  // Node has zstd from 22.15 on.
  const { createZstdDecompress } = zlib as { createZstdDecompress?: Create };
  const create: Create | undefined =
    format === 'gzip' ? zlib.createGunzip : format === 'zstd' ? createZstdDecompress : undefined;
  return create && (() => create({ chunkSize: MAX_CHUNK_BYTES }));
}

/**
 * Open a compressed file for reading, from its next byte on. It may consist of several members, and zeros may
 * follow the last. Closing the returned file closes the compressed one.
 *
 * Reading fails with a `MigrationStreamError` where the data is truncated or damaged. Its position counts in the
 * compressed file, as exactly as the decompressor reports it.
 *
 * @param packed - The compressed file.
 * @param base - Offset of its byte 0, for positions.
 * @param format - Name of the compression, for messages.
 * @param create - Creates the decompressor of one member.
 */
export function decompressed(
  packed: QemuFile,
  base: number,
  format: string,
  create: () => Decompressor,
): QemuFile {
  const input = new PackedInput(packed, base);
  const chunks = unpack(input, format, create);
  const file: QemuFile = new QemuFile({
    async getBuffer() {
      const { done, value } = await chunks.next();
      return done ? 0 : value;
    },
    async close(error) {
      const closed = closeUnder(packed, error);
      // Ends the decompressor; a working one ends with its input.
      void chunks.return();
      await closed;
    },
  });
  packed.once('close', () => {
    if (input.ended) return;
    const reason = 'the compressed file was closed';
    file.setError(packed.error ?? new QemuFileError('ECANCELED', reason));
  });
  return file;
}

/** Close a file that another one has read; destroy it if that one has failed with `error`. */
export async function closeUnder(file: QemuFile, error: Error | undefined): Promise<void> {
  if (error !== undefined) file.destroy(error);
  try {
    await file.close();
  } catch (failure) {
    if (error === undefined) throw failure;
  }
}

async function* unpack(
  input: PackedInput,
  format: string,
  create: () => Decompressor,
): AsyncGenerator<Uint8Array, void> {
  do {
    const start = input.position;
    const member = new Member(create(), format === 'zstd' ? new ZstdFrames() : undefined);
    const fed = member.feed(input);
    try {
      for await (const chunk of member.stream) {
        yield chunk as Uint8Array;
        member.chunkTaken();
      }
    } catch (error) {
      throw faultOf(error, format, start + member.stream.bytesWritten);
    } finally {
      member.stream.destroy();
    }
    input.putBack((await fed) - member.stream.bytesWritten);
  } while (await input.skipPadding());
}

/** One member in a decompressor. Its input is written ahead of what is read from it. */
class Member {
  readonly stream: Decompressor;
  readonly #frames: ZstdFrames | undefined;
  /** Continues the feeding. */
  #wake: () => void = noop;
  #isEnding = false;

  constructor(stream: Decompressor, frames: ZstdFrames | undefined) {
    this.stream = stream;
    this.#frames = frames;
    // It may still emit an error when its output is no longer read.
    stream.on('error', noop);
    // A closed stream does not always call back a pending write.
    stream.once('close', () => this.#wake());
  }

  /** Call this when a chunk of the output has been used. */
  chunkTaken(): void {
    if (this.#isEnding && this.stream.readableLength === 0) this.#wake();
  }

  /** Write compressed bytes until the input or the member ends; return their number. Does not reject. */
  async feed(input: PackedInput): Promise<number> {
    const { stream } = this;
    let fed = 0;
    try {
      // Bytes that it has called back without consuming them follow the member.
      while (stream.bytesWritten === fed && !stream.destroyed) {
        const chunk = await input.next();
        if (chunk === null) {
          await this.#end();
          break;
        }
        fed += chunk.length;
        this.#frames?.push(chunk);
        await this.#woken((wake) => stream.write(chunk, wake));
        if (this.#frames?.isWhole) {
          await this.#end();
          break;
        }
      }
    } catch (error) {
      stream.destroy(error as Error);
    }
    return fed;
  }

  async #end(): Promise<void> {
    this.#isEnding = true;
    // A stream that is ended too early drops output that has not been read.
    if (this.stream.readableLength > 0) await this.#woken(noop);
    if (this.#frames?.isWhole === false) this.stream.destroy(endOfInput());
    else this.stream.end();
  }

  #woken(start: (wake: () => void) => void): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (this.stream.destroyed) resolve();
      else start(() => resolve());
    });
  }
}

/** Return the error of node:zlib for input that ends too early. */
function endOfInput(): Error {
  return Object.assign(new Error('unexpected end of file'), { code: 'Z_BUF_ERROR' });
}

function faultOf(error: unknown, format: string, position: number): unknown {
  const { code, message } = error as { code?: unknown; message: string };
  if (typeof code !== 'string') return error;
  const kind = FAULTS[code] ?? (code.startsWith('ZSTD_error_') ? 'corrupt' : undefined);
  if (kind === undefined) return error;
  const reason =
    kind === 'truncated'
      ? `the compressed file ends inside its ${format} data`
      : `the ${format} data of the compressed file is damaged (${message})`;
  return new MigrationStreamError(kind, reason, { position, cause: error });
}

/** The compressed file; the end of the last chunk can be put back. */
class PackedInput {
  readonly #file: QemuFile;
  readonly #base: number;
  #last: Uint8Array = new Uint8Array(0);
  #rest: Uint8Array | null = null;
  #ended = false;

  constructor(file: QemuFile, base: number) {
    this.#file = file;
    this.#base = base;
  }

  /** Offset in the compressed file of the next byte. */
  get position(): number {
    return this.#base + this.#file.getPosition - (this.#rest?.length ?? 0);
  }

  /** Whether the end of the file has been reached. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Return the next bytes, which the caller may keep; null at the end. */
  async next(): Promise<Uint8Array | null> {
    const chunk = this.#rest ?? (await this.#fetch());
    this.#rest = null;
    if (chunk !== null) this.#last = chunk;
    return chunk;
  }

  /** Put back the last bytes of the last chunk. */
  putBack(size: number): void {
    if (size > 0) this.#rest = this.#last.subarray(this.#last.length - size);
  }

  /** Skip zeros; return false if nothing follows them. */
  async skipPadding(): Promise<boolean> {
    for (;;) {
      const chunk = await this.next();
      if (chunk === null) return false;
      const at = chunk.findIndex((byte) => byte !== 0);
      if (at < 0) continue;
      this.putBack(chunk.length - at);
      return true;
    }
  }

  async #fetch(): Promise<Uint8Array | null> {
    const available = this.#ended ? 0 : await this.#file.fillOrEnd(1);
    if (available === 0) {
      this.#ended = true;
      return null;
    }
    const chunk = this.#file.getBuffer(Math.min(available, MAX_CHUNK_BYTES));
    // Fetch the next bytes while these are decompressed. The next fetch reports a failure.
    if (available === chunk.length) void this.#file.fillOrEnd(1);
    return chunk;
  }
}
