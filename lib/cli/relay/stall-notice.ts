import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';

const SILENCE_MS = 10_000;

/**
 * Notice a source that sends nothing although everything it sent was taken. A QEMU does that, with its guest
 * stopped, if its capability `return-path` is on and the destination of the relay has no return path.
 *
 * @param from - The source.
 * @param to - The destination.
 * @param onStall - Called once, after `silenceMs` without a byte.
 * @param silenceMs - Milliseconds.
 * @returns A function that ends the watch.
 */
export function noticeStall(
  from: QemuFile,
  to: QemuFile,
  onStall: () => void,
  silenceMs: number = SILENCE_MS,
): () => void {
  if (to.readable || !from.isWritable()) return noop;
  let lastPosition = -1;
  const timer = setInterval(() => {
    const { getPosition } = from;
    if (getPosition > 0 && getPosition === lastPosition && to.writableLength === 0) {
      clearInterval(timer);
      onStall();
    }
    lastPosition = getPosition;
  }, silenceMs);
  return () => clearInterval(timer);
}
