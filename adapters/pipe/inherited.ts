import fs from 'node:fs';

/*
 * Node's own descriptors: those that it opens before any of ours, and so under numbers that a caller may believe to be
 * inherited. Bytes that are written to some of them end the process with a crash.
 */

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
 */
export function isClosedStandard(fd: number, stats: fs.Stats): boolean {
  if (process.platform !== 'linux' || stats.rdev !== NULL_DEVICE) return false;
  return accessMode(fd) === fs.constants.O_RDWR;
}

/**
 * Return whether a descriptor is one of Node's event loop: an epoll or event descriptor, or a pipe of which this
 * process has both ends.
 *
 * @param fd - A descriptor above 2.
 * @returns False where the system does not report it.
 */
export function isOfEventLoop(fd: number): boolean {
  if (process.platform !== 'linux') return false;
  const target = targetOf(fd);
  if (target.startsWith('anon_inode:')) return true;
  if (!target.startsWith('pipe:')) return false;
  const { O_RDONLY, O_WRONLY } = fs.constants;
  const opposite = accessMode(fd) === O_RDONLY ? O_WRONLY : O_RDONLY;
  return fs
    .readdirSync('/proc/self/fd')
    .some((other) => targetOf(other) === target && accessMode(other) === opposite);
}

/** Return what a descriptor is of, such as `pipe:[1234]`; empty if it is not known. */
function targetOf(fd: number | string): string {
  try {
    return fs.readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}

/**
 * Return `O_RDONLY`, `O_WRONLY` or `O_RDWR`; NaN if it is not known.
 *
 * @see proc(5), `/proc/PID/fdinfo`
 */
function accessMode(fd: number | string): number {
  try {
    const info = fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1');
    const [, flags] = /^flags:\s*([0-7]+)$/m.exec(info) ?? [];
    return flags === undefined ? Number.NaN : Number.parseInt(flags, 8) & O_ACCMODE;
  } catch {
    return Number.NaN;
  }
}
