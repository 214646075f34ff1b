import fs from 'node:fs';
import { QemuFileError } from '../../lib/contract/errors.ts';
import { descriptorStats } from '../shared/descriptor-stats.ts';

const OPERATION = 'setOffset';
/** The unit of sizes in sysfs, whatever the device's own sectors are. */
const SECTOR_BYTES = 512;

/**
 * Return the bytes of a regular file or of a block device.
 *
 * @param fd - The descriptor.
 * @throws {QemuFileError} `EBADF` the descriptor is not open; `ENOTSUP` the system does not report the size of the
 *   device.
 */
export function descriptorSize(fd: number): number {
  const stats = descriptorStats(fd, OPERATION);
  if (!stats.isBlockDevice()) return stats.size;
  const path = `/sys/dev/block/${deviceNumbers(stats.rdev)}/size`;
  try {
    // Node has no lseek(2), and fstat(2) reports 0 for a device.
    return Number(fs.readFileSync(path, 'latin1')) * SECTOR_BYTES;
  } catch (cause) {
    const reason = `the size of the device is not known (${path}); copy its contents to a file`;
    throw new QemuFileError('ENOTSUP', reason, { operation: OPERATION, cause });
  }
}

/** Return `major:minor` of a device: Linux has 12 bits and 20 bits for them. */
function deviceNumbers(rdev: number): string {
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xf_ff00);
  return `${(rdev >>> 8) & 0xfff}:${minor}`;
}
