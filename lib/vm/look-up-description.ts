import { fstatSync } from 'node:fs';
import type { Unwrapped } from '../migration/containers/unwrap.ts';
import {
  type FoundDescription,
  findVmDescription,
} from '../migration/devices/find-vm-description.ts';

/** Bytes at the end of a file that are searched for the VM description: at first, and at most. */
const TAIL_BYTES = [1_048_576, 33_554_432] as const;

/**
 * Find the VM description at the end of a regular file, followed only by zero padding. In any other file the reader
 * finds it when it gets there.
 *
 * @returns The description; undefined if there is none, or the file cannot seek.
 */
export async function lookUpDescription({
  file,
  seekable,
  container,
  fileOffset,
}: Unwrapped): Promise<FoundDescription | undefined> {
  const fd = file.getFd();
  if (!seekable || fd < 0 || (container !== null && container !== 'libvirt')) return undefined;
  const stats = fstatSync(fd);
  if (!stats.isFile()) return undefined;
  for (const size of TAIL_BYTES) {
    const length = Math.min(size, stats.size - fileOffset);
    if (length <= 0) return undefined;
    const tail = Buffer.allocUnsafe(length);
    await file.getBufferAt(tail, stats.size - length);
    const found = findVmDescription(tail, stats.size - length - fileOffset);
    const end = found === null ? 0 : found.offset + found.bytes + fileOffset;
    if (found !== null && isPadding(tail.subarray(length - (stats.size - end)))) return found;
    if (length < size) return undefined;
  }
  return undefined;
}

function isPadding(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}
