import fs from 'node:fs';
import { toQemuFileError } from '../../lib/contract/errors.ts';

/**
 * Return what fstat(2) reports of a descriptor.
 *
 * @param fd - The descriptor.
 * @param operation - Public name of the operation that errors name.
 * @throws {QemuFileError} `EBADF` the descriptor is not open.
 */
export function descriptorStats(fd: number, operation: string): fs.Stats {
  try {
    return fs.fstatSync(fd);
  } catch (error) {
    throw toQemuFileError(error, { operation });
  }
}
