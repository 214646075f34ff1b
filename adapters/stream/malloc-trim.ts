import { hasFastPath } from './fast-path.ts';

/**
 * Just below glibc's greatest threshold for blocks of their own, 32 MiB. More than the chunks that pile up
 * before the garbage collector runs; glibc keeps twice as much. The block is never touched, so it takes no
 * memory.
 */
const BLOCK_BYTES = 31 * 1024 * 1024;

let isDone = false;

/**
 * A fast path: have glibc (2.26 and later; other C libraries are not affected) keep the memory of chunks that
 * were read. Node allocates and frees 64 KiB for each, and glibc returns freed memory at the top of its heap
 * to the system at once, to get it again page by page: a third of the time of a relay, on Linux with Node 20
 * to 26 (bench/relay.ts, unix → unix). After glibc has freed one larger block, it keeps twice that much
 * (mallopt(3), M_TRIM_THRESHOLD). The garbage collector frees this block early.
 */
export function raiseMallocTrimThreshold(): void {
  if (isDone || !hasFastPath()) return;
  isDone = true;
  Buffer.allocUnsafeSlow(BLOCK_BYTES);
}
