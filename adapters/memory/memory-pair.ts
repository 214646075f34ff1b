import { type ConnectionOps, shareTransport, type Transport } from '../shared/shared-transport.ts';
import { ByteRing } from './byte-ring.ts';

/** Default of `MemoryPairOptions.highWaterMark`: the size of a pipe in Linux. */
const PIPE_BYTES = 65_536;

/** Options of `memoryPair`. */
export interface MemoryPairOptions {
  /** Bytes that each direction stores, an integer of 1 or more. Default 65536, as in a pipe of Linux. */
  highWaterMark?: number | undefined;
}

/**
 * Make the two ends of a connection within the process. Each end reads the bytes that the other writes. A write
 * that does not fit resolves when the peer has read enough, so a fast writer cannot increase the memory of the
 * process.
 *
 * - After `close()` of one end, the peer's reads report the end, and its writes fail with `EPIPE`.
 * - After `close(error)`, or a `close()` while a write is pending, both fail with `ECONNRESET`, reads after the
 *   bytes that are stored.
 * - `shutDown(false, true)` ends writing. After `shutDown(true, …)` reads fail with `ECANCELED`, and the peer's
 *   writes with `EPIPE`.
 * - `getReturnPath()` returns a further backend over the same end, which closes when all its backends are closed.
 *   A direction belongs to the first backend that uses it; in any other it fails with `EBUSY`.
 * - There is no descriptor, and `setBlocking` has no effect.
 *
 * @param options - `highWaterMark` in bytes.
 * @returns The two ends.
 * @throws {RangeError} `highWaterMark` is not an integer of 1 or more.
 */
export function memoryPair(options: MemoryPairOptions = {}): [ConnectionOps, ConnectionOps] {
  const { highWaterMark = PIPE_BYTES } = options;
  if (!Number.isSafeInteger(highWaterMark) || highWaterMark < 1) {
    throw new RangeError(`highWaterMark must be an integer of 1 or more: ${highWaterMark}`);
  }
  const forward = new ByteRing(highWaterMark);
  const backward = new ByteRing(highWaterMark);
  return [shareTransport(endOf(backward, forward)), shareTransport(endOf(forward, backward))];
}

function endOf(incoming: ByteRing, outgoing: ByteRing): Transport {
  return {
    getBuffer: (buffer) => incoming.read(buffer),
    writevBuffer: (buffers) => outgoing.write(buffers),
    cancelRead: (error) => incoming.cancelRead(error),
    shutDown(read, write) {
      if (read) incoming.closeReader();
      if (write) outgoing.closeWriter();
    },
    close(error) {
      const code = error === undefined ? undefined : 'ECONNRESET';
      outgoing.closeWriter(code);
      incoming.closeReader(code);
    },
    getFd: () => -1,
  };
}
