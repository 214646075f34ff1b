import { availableParallelism } from 'node:os';
import type { Duplex } from 'node:stream';
import zlib from 'node:zlib';
import { abortError } from '../../lib/contract/errors.ts';
import { onAbort } from '../../lib/contract/wait-for.ts';
import { noop } from '../../lib/util/noop.ts';
import { BlockCompressor, type CompressBlock } from './block-compressor.ts';
import { ExternalCompressor } from './external-compressor.ts';

/** Output formats of `compressTo`. */
export type CompressFormat = 'gzip' | 'zstd';

/** Options of `compressTo`. */
export interface CompressOptions {
  /**
   * Compression level: 1 to 9 for gzip, 1 to 19 for zstd. Default 1, because higher levels take longer than
   * a guest can wait while it migrates (bench/compress.ts).
   */
  level?: number | undefined;
  /**
   * Number of blocks that are compressed at the same time. Default: the number of processors, at most 4. A
   * higher number needs a larger thread pool (`UV_THREADPOOL_SIZE`).
   */
  threads?: number | undefined;
  /** Destroys the stream with `ECANCELED`. */
  signal?: AbortSignal | undefined;
}

const MAX_LEVEL: Readonly<Record<CompressFormat, number>> = { gzip: 9, zstd: 19 };
export const DEFAULT_LEVEL = 1;

/** Default number of threads in libuv's pool, which `UV_THREADPOOL_SIZE` changes. */
const POOL_THREADS = 4;

export const DEFAULT_THREADS: number = Math.min(availableParallelism(), POOL_THREADS);

/** The level for runs of zeros, which are compressed once and reused: the best where it makes a difference. */
const ZEROS_LEVEL: Readonly<Record<CompressFormat, number>> = { gzip: 9, zstd: 1 };

/** Bytes by which the compressed form of a block may exceed the block. */
const MAX_GROWTH_BYTES = 65_536;

/**
 * Create a stream that compresses on several threads: `pipeline(from, compressor, to)`.
 *
 * Each block of 1 MiB becomes a gzip member or a zstd frame of its own, in order. Any `gunzip` or `zstd -d` reads
 * them as one file. Long runs of zeros take almost no time. The stream buffers at most a few blocks for each thread,
 * and stops reading the source while its output is not read. Node.js before 22.15 has no zstd; the system's `zstd`,
 * started without a shell, then compresses.
 *
 * The stream ends after all of its output has been read. `'close'` is emitted when no thread and no child process
 * works for it. As with a `QemuFile`, an error without a listener does not end the process. An output that was
 * truncated between two members or frames can be decompressed without an error; only its content shows that it is
 * not complete.
 *
 * @param format - The format of the output.
 * @param options - `level`, `threads`, `signal`.
 * @returns A stream with a writable side for plain bytes and a readable side of compressed bytes. It fails with
 *   `EIO` if compression or the tool fails, with the tool's standard error; `ENOTSUP` if neither Node.js nor the
 *   system has zstd; `ECANCELED` when the signal aborts.
 * @throws {RangeError} The level or the number of threads is out of range, or the format is unknown.
 * @throws {QemuFileError} `ECANCELED` the signal is already aborted; the system's own code (`EAGAIN`, `EMFILE` …)
 *   if it cannot start another process.
 * @example
 * ```js
 * const from = await openFrom('unix:/run/vm.sock');
 * const to = await openTo('file:/var/lib/vm.mig.gz');
 * await pipeline(from, compressTo('gzip'), to);
 * ```
 */
export function compressTo(format: CompressFormat, options: CompressOptions = {}): Duplex {
  if (!Object.hasOwn(MAX_LEVEL, format)) {
    throw new RangeError(`compressTo: unknown format ${format}; use gzip or zstd`);
  }
  const level = wholeNumber('level', options.level ?? DEFAULT_LEVEL, MAX_LEVEL[format]);
  const threads = wholeNumber(
    'threads',
    options.threads ?? DEFAULT_THREADS,
    Number.MAX_SAFE_INTEGER,
  );
  const { signal } = options;
  if (signal?.aborted) throw abortError(signal, 'compress');
  const compress = blockCompression(format, level);
  const zeros = blockCompression(format, ZEROS_LEVEL[format]);
  const compressor =
    compress !== undefined && zeros !== undefined
      ? new BlockCompressor({ compress, compressZeros: zeros, threads })
      : new ExternalCompressor(format, compressionArgs(level, threads));
  compressor.on('error', noop);
  const stopFollowing = onAbort(signal, () => {
    compressor.destroy(abortError(signal as AbortSignal, 'compress'));
  });
  compressor.once('close', stopFollowing);
  return compressor;
}

function wholeNumber(name: string, value: number, max: number): number {
  if (Number.isSafeInteger(value) && value >= 1 && value <= max) return value;
  const range = max === Number.MAX_SAFE_INTEGER ? '1 or more' : `from 1 to ${max}`;
  throw new RangeError(`compressTo: ${name} must be an integer ${range}: ${value}`);
}

type Zlib = (
  bytes: Uint8Array,
  options: object,
  callback: (error: Error | null, result: Buffer) => void,
) => void;

/**
 * Return a function that compresses a block to a whole member or frame in the thread pool; undefined where
 * Node.js lacks the format.
 */
function blockCompression(format: CompressFormat, level: number): CompressBlock | undefined {
  // Node.js has zstd since 22.15.
  const { zstdCompress } = zlib as { zstdCompress?: Zlib };
  if (format === 'gzip') return wholeBlock(zlib.gzip, { level });
  if (zstdCompress === undefined) return undefined;
  const { ZSTD_c_compressionLevel: levelKey, ZSTD_c_checksumFlag: checksumKey } =
    zlib.constants as unknown as Record<string, number>;
  return wholeBlock(zstdCompress, {
    params: { [levelKey as number]: level, [checksumKey as number]: 1 },
  });
}

function wholeBlock(compress: Zlib, options: object): CompressBlock {
  return (bytes) =>
    new Promise((resolve, reject) => {
      // With room for the whole output, zlib uses the thread pool once, and not once for each 16 KiB.
      const chunkSize = bytes.length + MAX_GROWTH_BYTES;
      compress(bytes, { ...options, chunkSize }, (error, result) => {
        if (error !== null) reject(error);
        // Usually most of that room is unused, and would be retained as long as the output.
        else resolve(result.length < chunkSize / 2 ? Buffer.from(result) : result);
      });
    });
}

/** Return the arguments with which the system's `zstd` compresses its standard input to its standard output. */
export function compressionArgs(level: number, threads: number): readonly string[] {
  return [`-${level}`, `-T${threads}`, '-q', '-c'];
}
