import fs from 'node:fs';

/** Device number of /dev/null on Linux: major 1, minor 3. */
const NULL_DEVICE = 0x103;
/** Bits of the flags of open(2) that hold the direction. */
const O_ACCMODE = 3;

/**
 * Return whether a standard descriptor is what Node opens at its start in place of one that is closed: /dev/null in
 * both directions. Some programs also pass that to a child whose output they ignore.
 *
 * @param fd - 0 or 1.
 * @returns False where the system does not report it.
 * @see proc(5), `/proc/PID/fdinfo`
 */
export function isClosedStandard(fd: number, stats: fs.Stats): boolean {
  if (process.platform !== 'linux' || stats.rdev !== NULL_DEVICE) return false;
  try {
    const [, flags = '0'] =
      /^flags:\s*([0-7]+)$/m.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1')) ?? [];
    return (Number.parseInt(flags, 8) & O_ACCMODE) === fs.constants.O_RDWR;
  } catch {
    return false;
  }
}
