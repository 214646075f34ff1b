import { accessSync, closeSync, constants, openSync, readFileSync, readSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Compression } from '../migration/containers/sniff.ts';
import { QemuFile } from '../qemu-file/qemu-file.ts';
import { isRegularFile } from '../util/regular-file.ts';

/** Most bytes before the compressed data that are read to move a descriptor there: Node has no lseek(2). */
const MAX_SKIPPED_BYTES = 1_048_576;

/** A descriptor by which a program reads a file. */
interface ProgramInput {
  /** Return the descriptor; negative once it is closed. */
  fd: () => number;
  /** Offset in the descriptor of the file's byte 0. */
  base: number;
}

/** Files that a program reads by a descriptor. */
const readByPrograms = new WeakMap<QemuFile, ProgramInput>();

/** Compressed data in a regular file. */
interface Packed {
  format: Compression;
  /** The file as it was opened. */
  file: QemuFile;
  /** Offset of the data in the regular file. */
  offset: number;
}

/** The compressed data of files that a program decompresses from a regular file. */
const packedOf = new WeakMap<QemuFile, Packed>();

/**
 * Return a function that opens a file compressed in a format that Node.js cannot read itself; the
 * `decompress` option of `unwrap`. An external program does the work. It reads a regular file by its descriptor.
 */
export function decompress(format: Compression): (compressed: QemuFile) => Promise<QemuFile> {
  return async (compressed) => {
    const { decompressWith } = await import('../../adapters/compress/decompress.ts');
    const offset = await offsetForProgram(compressed);
    const stdin = offset === undefined ? undefined : compressed.getFd();
    const file = new QemuFile(decompressWith(format, { stdin })(compressed));
    if (offset !== undefined) packedOf.set(file, { format, file: compressed, offset });
    return file;
  };
}

/** Compressed data in a regular file, opened once more. */
export interface ReopenedInput {
  /** A descriptor at the first byte of the data, with an offset of its own. */
  fd: number;
  /** Open the decompressed data, from its start; undefined if that is not possible any more. */
  open: () => Promise<QemuFile | undefined>;
  close: () => void;
}

/**
 * Open the compressed data of a file once more, independently of it. From then on `bytesRead` follows the new
 * descriptor.
 *
 * @param file - A file as `decompress` returns it. It may be closed after the call.
 * @returns Undefined if the data has another format, or is not in a regular file that this process can open again.
 */
export function reopenInput(file: QemuFile, format: Compression): ReopenedInput | undefined {
  const packed = packedOf.get(file);
  if (packed?.format !== format) return undefined;
  const { offset } = packed;
  let fd = openAgain(packed.file.getFd(), offset);
  if (fd < 0) return undefined;
  readByPrograms.set(packed.file, { fd: () => fd, base: offset - packed.file.getPosition });
  return {
    fd,
    open: async () => {
      const { decompressWith } = await import('../../adapters/compress/decompress.ts');
      const stdin = openAgain(fd, offset);
      if (stdin < 0) return undefined;
      try {
        return new QemuFile(decompressWith(format, { stdin })(noChunks()));
      } finally {
        closeSync(stdin);
      }
    },
    close: () => {
      closeSync(fd);
      fd = -1;
    },
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

/** The source of a program that reads a descriptor. */
async function* noChunks(): AsyncGenerator<Uint8Array, void> {}

/** Return how many bytes of a file have been read, by this process or by the program that decompresses the file. */
export function bytesRead(file: QemuFile): number {
  const input = readByPrograms.get(file);
  const offset = input === undefined ? undefined : descriptorOffset(input.fd());
  return Math.max(file.getPosition, (offset ?? 0) - (input?.base ?? 0));
}

/**
 * Move the offset of a regular file's descriptor to the file's next byte, for a program. Return that offset; undefined
 * if the program cannot read the descriptor.
 */
async function offsetForProgram(file: QemuFile): Promise<number | undefined> {
  const fd = file.getFd();
  if (!isRegularFile(fd)) return undefined;
  const next = (await file.getOffset()) - file.lookedAhead;
  if (!moveDescriptor(fd, next)) return undefined;
  readByPrograms.set(file, { fd: () => file.getFd(), base: next - file.getPosition });
  return next;
}

/** Move the offset of a descriptor forward. Return whether that succeeded. */
function moveDescriptor(fd: number, to: number): boolean {
  const skipped = to - (descriptorOffset(fd) ?? Number.POSITIVE_INFINITY);
  if (skipped < 0 || skipped > MAX_SKIPPED_BYTES) return false;
  return skipped === 0 || readSync(fd, Buffer.alloc(skipped), 0, skipped, null) === skipped;
}

/** Open the file of a descriptor once more, at an offset; return a negative number if that is not possible. */
function openAgain(fd: number, offset: number): number {
  let opened = -1;
  try {
    opened = openSync(`/proc/self/fd/${fd}`, 'r');
    if (moveDescriptor(opened, offset)) return opened;
  } catch {
    // The file may be opened only by another user.
  }
  if (opened >= 0) closeSync(opened);
  return -1;
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
