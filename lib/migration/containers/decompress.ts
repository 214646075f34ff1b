import type { Transform } from 'node:stream';
import zlib from 'node:zlib';
import { QemuFileError } from '../../contract/errors.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import { MigrationStreamError, type StreamFault } from '../format/stream-error.ts';

/*
 * A file over what another one holds compressed, by node:zlib. One compressed chunk is under way at a time;
 * what a decompressor leaves of it is the next member's, or padding.
 */

/** Greatest number of compressed bytes, and of others, that are handed over at once. */
const CHUNK_SIZE = 262_144;

/** A decompressor of Node's. */
export type Decompressor = Transform & { readonly bytesWritten: number };

/** What Node's decompressors report of the data, as opposed to themselves. */
const FAULTS: Readonly<Record<string, StreamFault>> = {
  Z_BUF_ERROR: 'truncated',
  Z_DATA_ERROR: 'corrupt',
  Z_NEED_DICT: 'unsupported',
  ZSTD_error_frameParameter_windowTooLarge: 'unsupported',
  ZSTD_error_dictionary_wrong: 'unsupported',
};

type Create = (options: zlib.ZlibOptions) => Decompressor;

/** Gives what makes a decompressor; undefined where this Node.js has none. */
export function decompressorOf(format: string): (() => Decompressor) | undefined {
  // Node.js has zstd from 22.15 on.
  const { createZstdDecompress } = zlib as { createZstdDecompress?: Create };
  const create: Create | undefined =
    format === 'gzip' ? zlib.createGunzip : format === 'zstd' ? createZstdDecompress : undefined;
  return create && (() => create({ chunkSize: CHUNK_SIZE }));
}

/**
 * Makes a file of what another one holds compressed, from its next byte on. Members may follow each other,
 * and zeros may follow the last. Closing it closes the other file.
 *
 * Reading it fails with a `MigrationStreamError` where the data is cut off or damaged; its position is
 * one in the compressed file, as exact as the decompressor tells.
 *
 * @param packed - The compressed file.
 * @param base - Offset of its byte 0, for positions.
 * @param format - For messages.
 * @param create - Makes a decompressor for one member.
 */
export function decompressed(
  packed: QemuFile,
  base: number,
  format: string,
  create: () => Decompressor,
): QemuFile {
  const input = new PackedInput(packed, base);
  const pieces = unpack(input, format, create);
  const file: QemuFile = new QemuFile({
    async getBuffer() {
      const { done, value } = await pieces.next();
      return done ? 0 : value;
    },
    async close(error) {
      const closed = closeUnder(packed, error);
      // Ends the decompressor; while it works, that happens by the end of its input.
      void pieces.return();
      await closed;
    },
  });
  packed.once('close', () => {
    if (input.ended) return;
    const reason = 'the compressed file under it was closed';
    file.setError(packed.error ?? new QemuFileError('ECANCELED', reason));
  });
  return file;
}

/** Closes a file that another one was over; with the error of that one, breaks it off. */
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
    const member = new Member(create());
    const fed = member.feed(input);
    try {
      for await (const piece of member.stream) {
        yield piece as Uint8Array;
        member.pieceTaken();
      }
    } catch (error) {
      throw faultOf(error, format, start + member.stream.bytesWritten);
    } finally {
      member.stream.destroy();
    }
    input.putBack((await fed) - member.stream.bytesWritten);
  } while (await input.skipPadding());
}

/** A decompressor at work: what it is fed with runs ahead of what is read. */
class Member {
  readonly stream: Decompressor;
  /** Continues the feeding. */
  #wake: () => void = noop;
  #isEnding = false;

  constructor(stream: Decompressor) {
    this.stream = stream;
    // For what it may still report when nobody reads it any more.
    stream.on('error', noop);
    // A write that is under way then is not always called back.
    stream.once('close', () => this.#wake());
  }

  /** To be called when a piece of the stream has been used. */
  pieceTaken(): void {
    if (this.#isEnding && this.stream.readableLength === 0) this.#wake();
  }

  /** Hands over compressed bytes until they end, or the member does; answers how many. Does not reject. */
  async feed(input: PackedInput): Promise<number> {
    const { stream } = this;
    let fed = 0;
    try {
      // What it has called back for without taking it belongs to what follows the member.
      while (stream.bytesWritten === fed && !stream.destroyed) {
        const chunk = await input.next();
        if (chunk === null) {
          await this.#end();
          break;
        }
        fed += chunk.length;
        await this.#woken((wake) => stream.write(chunk, wake));
      }
    } catch (error) {
      stream.destroy(error as Error);
    }
    return fed;
  }

  async #end(): Promise<void> {
    this.#isEnding = true;
    // If the end comes too early, the stream drops what nobody has read yet.
    if (this.stream.readableLength > 0) await this.#woken(noop);
    this.stream.end();
  }

  #woken(start: (wake: () => void) => void): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (this.stream.destroyed) resolve();
      else start(() => resolve());
    });
  }
}

function faultOf(error: unknown, format: string, position: number): unknown {
  const { code, message } = error as { code?: unknown; message: string };
  if (typeof code !== 'string') return error;
  const kind = FAULTS[code] ?? (code.startsWith('ZSTD_error_') ? 'corrupt' : undefined);
  if (kind === undefined) return error;
  const reason =
    kind === 'truncated'
      ? `the compressed file ends in the middle of its ${format} data`
      : `the ${format} data of the compressed file cannot be read (${message})`;
  return new MigrationStreamError(kind, reason, { position, cause: error });
}

/** The compressed file, of which the end of the last chunk can be put back. */
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

  /** Whether the file's end has been met. */
  get ended(): boolean {
    return this.#ended;
  }

  /** The next bytes, for keeps; null at the end. */
  async next(): Promise<Uint8Array | null> {
    const chunk = this.#rest ?? (await this.#fetch());
    this.#rest = null;
    if (chunk !== null) this.#last = chunk;
    return chunk;
  }

  /** Puts back the last bytes of the last chunk. */
  putBack(size: number): void {
    if (size > 0) this.#rest = this.#last.subarray(this.#last.length - size);
  }

  /** Drops zeros; false if nothing follows. */
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
    const there = this.#ended ? 0 : await this.#file.fillOrEnd(1);
    if (there === 0) {
      this.#ended = true;
      return null;
    }
    const chunk = this.#file.getBuffer(Math.min(there, CHUNK_SIZE));
    // Has the next bytes fetched while these are decompressed; a failure is met by whoever fetches next.
    if (there === chunk.length) void this.#file.fillOrEnd(1);
    return chunk;
  }
}
