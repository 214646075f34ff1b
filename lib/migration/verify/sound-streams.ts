import type { QemuFile } from '../../qemu-file/qemu-file.ts';

/** For each stream of a snapshot store, a function that opens it once more. */
const openers = new WeakMap<QemuFile, () => QemuFile>();

/**
 * Mark a stream as made of parts that are checked as they are read, so that checking it as a whole is worthwhile only
 * if QEMU does not load it.
 *
 * @param openAgain - Opens it once more, from its start.
 */
export function markSound(stream: QemuFile, openAgain: () => QemuFile): void {
  openers.set(stream, openAgain);
}

/** Open a sound stream once more; undefined for another stream. */
export function reopenSound(stream: QemuFile): QemuFile | undefined {
  return openers.get(stream)?.();
}
