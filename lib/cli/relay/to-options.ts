import type { QemuFileOptions } from '../../qemu-file/options.ts';
import type { Ends } from '../endpoints/read-ends.ts';
import type { RelayFlags } from './outcome.ts';
import type { RelayMonitor } from './relay-status.ts';

/**
 * Bytes that may wait for a unix socket. A chunk that is not read before most of the last one has left is still in the
 * processor's cache when it is written (bench/relay.ts, unix → unix).
 */
const UNIX_HIGH_WATER_MARK = 64 * 1024;

/** Return the options of the file that a relay writes to. */
export function toOptionsOf(
  { to, tls }: Ends,
  flags: RelayFlags,
  monitor: RelayMonitor,
): QemuFileOptions {
  const isPlainUnix = to.scheme === 'unix' && tls.to === undefined;
  return {
    budget: monitor.budget,
    ...(flags.digest === true ? { digest: 'xxh64' } : {}),
    ...(isPlainUnix ? { highWaterMark: UNIX_HIGH_WATER_MARK } : {}),
  };
}
