import type { QemuFile } from '../../qemu-file/qemu-file.ts';

const SILENCE_MS = 10_000;

/**
 * Watches for a source that sends nothing and waits for nothing but an answer. A QEMU does that, with
 * its guest stopped, if its capability `return-path` is on and what it saves to has no way back.
 *
 * @param from - The source.
 * @param to - Where its bytes go.
 * @param onSilence - Called once, after nothing came for `silenceMs` and all that came was taken.
 * @returns Ends the watch.
 */
export function noticeStall(
  from: QemuFile,
  to: QemuFile,
  onSilence: () => void,
  silenceMs: number = SILENCE_MS,
): () => void {
  if (to.readable || !from.isWritable()) return () => {};
  let seen = -1;
  const timer = setInterval(() => {
    const { getPosition } = from;
    if (getPosition > 0 && getPosition === seen && to.writableLength === 0) {
      clearInterval(timer);
      onSilence();
    }
    seen = getPosition;
  }, silenceMs);
  return () => clearInterval(timer);
}
