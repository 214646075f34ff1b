import type { QemuFileSizes } from '../../lib/contract/ops.ts';

/*
 * The fastest sizes in bench/write-pages.ts and bench/look-ahead-size.ts. Node's streams need far more time
 * for an entry of a gather list than for a copy of 4 KiB; `fs.writev` needs less.
 */

const KIB = 1024;

/** Sockets, with or without TLS: a copied block is still in the processor's cache when the kernel reads it. */
export const SOCKET_SIZES: Partial<QemuFileSizes> = {
  stagingSize: 128 * KIB,
  copyLimit: 4 * KIB,
  highWaterMark: 256 * KIB,
};

/** Pipes hold 64 KiB: larger batches wake the writer less often. */
export const PIPE_SIZES: Partial<QemuFileSizes> = {
  stagingSize: 256 * KIB,
  copyLimit: 4 * KIB,
  highWaterMark: 1024 * KIB,
};

/** Files: every batch and every read is a call in the thread pool. */
export const FILE_SIZES: Partial<QemuFileSizes> = {
  stagingSize: 128 * KIB,
  gatherEntries: 1024,
  highWaterMark: 4096 * KIB,
  lookAheadSize: 512 * KIB,
};
