import fs from 'node:fs';
import { argumentError } from '../../lib/contract/argument-error.ts';
import { toQemuFileError } from '../../lib/contract/errors.ts';

const MAX_DESCRIPTOR = 2 ** 31 - 1;

/**
 * Return what fstat(2) reports of a descriptor.
 *
 * @param fd - The descriptor.
 * @param operation - Public name of the operation that errors name.
 * @throws {TypeError} if `fd` is not the number of a descriptor.
 * @throws {QemuFileError} `EBADF` the descriptor is not open.
 */
export function descriptorStats(fd: number, operation: string): fs.Stats {
  if (!Number.isInteger(fd) || fd < 0 || fd > MAX_DESCRIPTOR) {
    throw argumentError(operation, 'fd', `an integer from 0 to ${MAX_DESCRIPTOR}`, fd);
  }
  try {
    return fs.fstatSync(fd);
  } catch (error) {
    throw toQemuFileError(error, { operation });
  }
}
