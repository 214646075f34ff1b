import { availableParallelism } from 'node:os';
import type { Duplex } from 'node:stream';
import zlib from 'node:zlib';
import { abortError } from '../../lib/contract/errors.ts';
import { noop } from '../../lib/util/noop.ts';
import { BlockCompressor, type CompressBlock } from './block-compressor.ts';
import { ExternalCompressor } from './external-compressor.ts';

/** Formats that can be compressed to. */
export type CompressFormat = 'gzip' | 'zstd';

/** How `compressTo` works. */
export interface CompressOptions {
  /**
   * How hard it tries: 1 to 9 for gzip, 1 to 19 for zstd. Default: 1, since what more is gained by a higher
   * level costs more time than there is while a guest migrates (bench/compress.ts).
   */
  level?: number | undefined;
  /**
   * Blocks of 1 MiB that are compressed at once. Default: the number of processors, 4 at most; more are of
   * use only if `UV_THREADPOOL_SIZE` says that there are more threads.
   */
  threads?: number | undefined;
  /** Destroys the stream when it aborts, with `ECANCELED`. */
  signal?: AbortSignal | undefined;
}

const MAX_LEVEL: Readonly<Record<CompressFormat, number>> = { gzip: 9, zstd: 19 };
const DEFAULT_LEVEL = 1;

/** Threads that libuv has for such work, unless `UV_THREADPOOL_SIZE` says something else. */
const POOL_SIZE = 4;

/** The level for zeros, which are compressed once: where it makes a difference, the best. */
const ZEROS_LEVEL: Readonly<Record<CompressFormat, number>> = { gzip: 9, zstd: 1 };

/** Bytes beyond those of a block that its compressed form may take. */
const MAX_GROWTH = 65_536;

/**
 * Makes a stream that compresses what is written to it, on several threads: `pipeline(from, compressor, to)`.
 *
 * Blocks of 1 MiB become gzip members or zstd frames of their own, in order, which any `gunzip` or
 * `zstd -d` reads as one file; long runs of zeros cost next to nothing. Memory is bounded by some blocks for
 * each thread, and the source waits while nobody reads the output. Where Node.js has no zstd (before
 * 22.15) the system's `zstd` compresses, called without a shell.
 *
 * It ends only after all output has been read; `'close'` comes when no thread and no child process works for
 * it any more. As with a `QemuFile`, an error that nobody listens to does not end the process. An output that is cut
 * off inside a member or frame cannot be read; one that is cut off between two of them can, which only what is in it
 * tells.
 *
 * @param format - The format of the output.
 * @param options - `level`, `threads`, `signal`.
 * @returns A stream whose writable side takes bytes, and whose readable side gives them compressed. It fails with
 *   `EIO` if compressing does, or the tool, with what that said; `ENOTSUP` if there is neither zstd in Node.js nor
 *   a tool; `ECANCELED` when the signal aborts.
 * @throws {RangeError} For a level or a number of threads that there is not.
 * @throws {QemuFileError} `ECANCELED` if the signal has aborted already; the system's own code if it has no room
 *   for one more process.
 * @example
 * ```js
 * const from = await openFrom('unix:/run/vm.sock');
 * const to = await openTo('file:/var/lib/vm.mig.gz');
 * await pipeline(from, compressTo('gzip'), to);
 * ```
 */
export function compressTo(format: CompressFormat, options: CompressOptions = {}): Duplex {
  if (!Object.hasOwn(MAX_LEVEL, format)) {
    throw new RangeError(`compressTo: there is no format ${format}, only gzip and zstd`);
  }
  const level = wholeNumber('level', options.level ?? DEFAULT_LEVEL, MAX_LEVEL[format]);
  const threads = wholeNumber(
    'threads',
    options.threads ?? Math.min(availableParallelism(), POOL_SIZE),
    Number.MAX_SAFE_INTEGER,
  );
  const { signal } = options;
  if (signal?.aborted) throw abortError(signal, 'compress');
  const compress = blockCompression(format, level);
  const zeros = blockCompression(format, ZEROS_LEVEL[format]);
  const compressor =
    compress !== undefined && zeros !== undefined
      ? new BlockCompressor({ compress, compressZeros: zeros, threads })
      : new ExternalCompressor(format, [`-${level}`, `-T${threads}`, '-q', '-c']);
  compressor.on('error', noop);
  if (signal !== undefined) endBySignal(compressor, signal);
  return compressor;
}

function wholeNumber(name: string, value: number, most: number): number {
  if (Number.isSafeInteger(value) && value >= 1 && value <= most) return value;
  const range = most === Number.MAX_SAFE_INTEGER ? '1 or more' : `1 to ${most}`;
  throw new RangeError(`compressTo: ${name} is ${value}, not a whole number, ${range}`);
}

function endBySignal(compressor: Duplex, signal: AbortSignal): void {
  const onAbort = (): void => void compressor.destroy(abortError(signal, 'compress'));
  signal.addEventListener('abort', onAbort, { once: true });
  compressor.once('close', () => signal.removeEventListener('abort', onAbort));
}

type Zlib = (
  bytes: Uint8Array,
  options: object,
  callback: (error: Error | null, result: Buffer) => void,
) => void;

/** Gives what makes a whole member or frame of a block, in libuv's threads; undefined where Node.js has none. */
function blockCompression(format: CompressFormat, level: number): CompressBlock | undefined {
  // Node.js has zstd from 22.15 on.
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
      // With room for all of the output there is one round through the threads, and not one for each 16 KiB.
      const chunkSize = bytes.length + MAX_GROWTH;
      compress(bytes, { ...options, chunkSize }, (error, result) => {
        if (error !== null) reject(error);
        // Most of that room is left in general, and would be kept as long as the output is.
        else resolve(result.length < chunkSize / 2 ? Buffer.from(result) : result);
      });
    });
}
