import { accessSync, constants, readFileSync, readSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Compression } from '../migration/containers/sniff.ts';
import { QemuFile } from '../qemu-file/qemu-file.ts';
import { isRegularFile } from '../util/regular-file.ts';

/** Most bytes before the compressed data that are read to move a descriptor there: Node has no lseek(2). */
const MAX_SKIPPED_BYTES = 1_048_576;

/** Files that a program reads by their descriptors, and the offset in the descriptor of their byte 0. */
const readByPrograms = new WeakMap<QemuFile, number>();

/**
 * Return a function that opens a file compressed in a format that Node.js cannot read itself; the
 * `decompress` option of `unwrap`. An external program does the work. It reads a regular file by its descriptor.
 */
export function decompress(format: Compression): (compressed: QemuFile) => Promise<QemuFile> {
  return async (compressed) => {
    const { decompressWith } = await import('../../adapters/compress/decompress.ts');
    const stdin = await descriptorAtNextByte(compressed);
    return new QemuFile(decompressWith(format, { stdin })(compressed));
  };
}

/**
 * Return whether the program of a format is better than Node.js: the `prefersDecompress` option of `unwrap`. Node
 * needs twice the processor time for zstd (bench/vm.ts).
 */
export function prefersProgram(format: Compression): boolean {
  if (format !== 'zstd') return false;
  return (process.env.PATH ?? '').split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, format), constants.X_OK);
      return directory !== '';
    } catch {
      return false;
    }
  });
}

/** Return how many bytes of a file have been read, by this process or by the program that decompresses the file. */
export function bytesRead(file: QemuFile): number {
  const base = readByPrograms.get(file);
  const offset = base === undefined ? undefined : descriptorOffset(file.getFd());
  return Math.max(file.getPosition, (offset ?? 0) - (base ?? 0));
}

/** Move the offset of a regular file's descriptor to the file's next byte; return the descriptor if that succeeds. */
async function descriptorAtNextByte(file: QemuFile): Promise<number | undefined> {
  const fd = file.getFd();
  const offset = descriptorOffset(fd);
  if (offset === undefined || !isRegularFile(fd)) return undefined;
  const next = (await file.getOffset()) - file.lookedAhead;
  const skipped = next - offset;
  if (skipped < 0 || skipped > MAX_SKIPPED_BYTES) return undefined;
  const bytes = Buffer.alloc(skipped);
  if (skipped > 0 && readSync(fd, bytes, 0, skipped, null) < skipped) return undefined;
  readByPrograms.set(file, next - file.getPosition);
  return fd;
}

/** Return the offset that a descriptor shares with its copies; undefined where the system does not report it. */
export function descriptorOffset(fd: number): number | undefined {
  if (fd < 0) return undefined;
  try {
    const text = readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1');
    const digits = /^pos:\s*(\d+)/.exec(text)?.[1];
    return digits === undefined ? undefined : Number(digits);
  } catch {
    return undefined;
  }
}
