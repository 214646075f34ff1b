import { QemuFileError } from '../../contract/errors.ts';
import type { Whence } from '../../contract/ops.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { closeUnder } from './decompress.ts';
import type { ReadAt } from './qcow2-clusters.ts';
import type { Qcow2VmState } from './qcow2-vm-state.ts';

/**
 * Return a function that reads at any offset of a file with its `getBufferAt`; undefined if its backend cannot
 * seek. The file's look-ahead is discarded.
 */
export async function readerOf(file: QemuFile): Promise<ReadAt | undefined> {
  let size: number;
  try {
    // A read past the end would fail the file, but it is the image that is wrong.
    size = await file.setOffset(0, 'end');
  } catch (error) {
    if ((error as QemuFileError).code !== 'ESPIPE') throw error;
    return undefined;
  }
  return async (target, offset) => {
    const length = Math.min(target.length, size - offset);
    return length <= 0 ? 0 : file.getBufferAt(target.subarray(0, length), offset);
  };
}

/**
 * Open the VM state in an image as a file that can seek.
 *
 * @param state - The VM state.
 * @param image - The file of the image; closed with the new one.
 */
export function snapshotFile(state: Qcow2VmState, image: QemuFile): QemuFile {
  let next = 0;
  return new QemuFile({
    async getBuffer(buffer) {
      const length = await state.read(buffer, next);
      next += length;
      return length;
    },
    getBufferAt: (buffer, offset) => state.read(buffer, offset),
    getOffset: () => next,
    setOffset(offset: number, whence: Whence) {
      const target = offset + (whence === 'set' ? 0 : whence === 'end' ? state.size : next);
      if (!(Number.isSafeInteger(target) && target >= 0)) {
        throw new QemuFileError('EINVAL', `${target} is not an offset`, { operation: 'setOffset' });
      }
      next = target;
      return target;
    },
    close: (error) => closeUnder(image, error),
    // The size that files use, because every read is a round trip to the thread pool.
    sizes: { lookAheadSize: 262_144 },
  });
}
