import type { QemuFileSizes } from '../../lib/contract/ops.ts';

/*
 * What bench/write-pages.ts and bench/look-ahead-size.ts found to be fastest. Streams of Node's take far
 * more time for an entry of a gather list than for copying 4 KiB, `fs.writev` takes less.
 */

const KIB = 1024;

/** Sockets, TLS included: the copied block is still in the processor's cache when the kernel reads it. */
export const SOCKET_SIZES: Partial<QemuFileSizes> = {
  stagingSize: 128 * KIB,
  copyLimit: 4 * KIB,
  highWaterMark: 512 * KIB,
};

/** Pipes hold 64 KiB: larger batches wake the writer less often. */
export const PIPE_SIZES: Partial<QemuFileSizes> = {
  stagingSize: 256 * KIB,
  copyLimit: 4 * KIB,
  highWaterMark: 1024 * KIB,
};

/** Files: every batch is a trip to the thread pool, and so is every read. */
export const FILE_SIZES: Partial<QemuFileSizes> = {
  stagingSize: 128 * KIB,
  gatherEntries: 1024,
  highWaterMark: 4096 * KIB,
  lookAheadSize: 512 * KIB,
};
