import { readlink } from 'node:fs/promises';
import { QemuFileError } from '../../contract/errors.ts';
import type { Unwrapped } from '../../migration/containers/unwrap.ts';

/**
 * Return the URI by which QEMU opens a mapped-ram file itself: the offsets in it count from the start of the file.
 *
 * @throws {QemuFileError} (rejects) `ENOTSUP` if QEMU cannot open it, or would open another one.
 */
export async function mappedFileUri(unwrapped: Unwrapped): Promise<string> {
  const { file, fileOffset, containers } = unwrapped;
  const operation = 'restoreVm';
  const fd = file.getFd();
  // An image of libvirt's (format sparse) has offsets that count from the start of the file as well.
  if (containers.some((name) => name !== 'libvirt') || fd < 0) {
    const reason = 'QEMU reads a mapped-ram file itself: unpack it into a file first';
    throw new QemuFileError('ENOTSUP', reason, { operation });
  }
  const path = await readlink(`/proc/self/fd/${fd}`);
  if (path.includes(',offset=')) {
    // QEMU would open another file, which may exist.
    const reason = `QEMU would read a part of the file's name as an offset; rename the file: ${path}`;
    throw new QemuFileError('ENOTSUP', reason, { operation });
  }
  return fileOffset === 0 ? `file:${path}` : `file:${path},offset=${fileOffset}`;
}
