import fs from 'node:fs';
import { QemuFileError } from '../../lib/contract/errors.ts';

/** Most bytes of one read(2) or write(2); Linux moves less than 2 GiB in one call. */
const MAX_CALL_BYTES = 1 << 30;

/**
 * Read exactly `length` bytes of a file that had them when its size was read.
 *
 * @throws {QemuFileError} (rejects) `EIO` if it has become shorter.
 */
export async function readAt(
  fd: number,
  offset: number,
  length: number,
  path: string,
  operation: string,
): Promise<Buffer> {
  const buffer = Buffer.allocUnsafeSlow(length);
  let done = 0;
  while (done < length) {
    const count = Math.min(length - done, MAX_CALL_BYTES);
    const read = await readSome(fd, buffer, done, count, offset + done);
    if (read === 0) {
      throw new QemuFileError('EIO', `${path}: the file became shorter while it was read`, {
        operation,
        position: offset + done,
      });
    }
    done += read;
  }
  return buffer;
}

/** Write buffers one after another at the current position of a descriptor, whole. */
export async function writeAll(fd: number, parts: readonly Uint8Array[]): Promise<void> {
  let rest = parts.filter(({ length }) => length > 0);
  while (rest.length > 0) {
    rest = withoutFirst(rest, await writeSome(fd, rest));
  }
}

function withoutFirst(parts: readonly Uint8Array[], count: number): Uint8Array[] {
  let left = count;
  let index = 0;
  while (index < parts.length && left >= (parts[index] as Uint8Array).length) {
    left -= (parts[index] as Uint8Array).length;
    index += 1;
  }
  const rest = parts.slice(index);
  if (left > 0) rest[0] = (rest[0] as Uint8Array).subarray(left);
  return rest;
}

function readSome(
  fd: number,
  buffer: Buffer,
  at: number,
  length: number,
  position: number,
): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.read(fd, buffer, at, length, position, (error, count) =>
      error === null ? resolve(count) : reject(error),
    );
  });
}

function writeSome(fd: number, parts: readonly Uint8Array[]): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.writev(fd, parts, (error, count) => (error === null ? resolve(count) : reject(error)));
  });
}
