/**
 * As large as glibc lets it be: chunks pile up until the garbage collector runs, and more than twice this is
 * given back. It is never touched, so it takes no memory.
 */
const BLOCK_SIZE = 31 * 1024 * 1024;

let isDone = false;

/**
 * Has the C library keep the memory of chunks that were read. For each one Node allocates and frees 64 KiB,
 * and glibc gives freed memory at the top of its heap back to the system at once, to get it again page by
 * page: a third of the time of a relay (bench/relay.ts, unix → unix). After it has freed one larger block it
 * keeps twice that much (mallopt(3), M_TRIM_THRESHOLD). The garbage collector frees this one early.
 */
export function raiseMallocTrimThreshold(): void {
  if (isDone) return;
  isDone = true;
  Buffer.allocUnsafeSlow(BLOCK_SIZE);
}
