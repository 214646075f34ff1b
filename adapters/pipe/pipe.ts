import net from 'node:net';
import tty from 'node:tty';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { Direction, ReadOps, WriteOps } from '../../lib/contract/ops.ts';
import { type FdOps, fdOps } from '../file/fd.ts';
import { descriptorStats } from '../shared/descriptor-stats.ts';
import type { ConnectionOps } from '../shared/shared-transport.ts';
import { socketOps } from '../socket/socket.ts';
import { pipeFdOps } from './fifo.ts';
import { isClosedStandard, isOfEventLoop } from './inherited.ts';
import { readPipeOps, writePipeOps } from './pipe-ends.ts';

/** Options of `pipeOps`. */
export interface PipeOptions {
  /**
   * Which way bytes go. Default: `read` for descriptor 0, `write` for 1 and 2. Required for other descriptors,
   * except sockets, which always work in both directions.
   */
  direction?: Direction | undefined;
}

/** Why a standard descriptor cannot be used that is closed, by direction. */
const CLOSED: Readonly<Record<Direction, string>> = {
  read: 'standard input is closed; redirect it to what is to be read',
  write: 'standard output is closed, or ignored by the program that started this one; redirect it',
};

/**
 * Make a backend of a descriptor that this process inherited: a pipe, a socket, a terminal, a file or a device.
 * QEMU's `fd:N`, and `-`, which is 0 or 1.
 *
 * - The backend owns descriptors above 2 from then on, and `close()` closes them.
 * - Descriptors 0, 1 and 2 stay open, because their numbers must not come to mean another file. The peer of
 *   standard output therefore sees the end when the process exits. Where they are pipes, sockets or terminals,
 *   the backend uses `process.stdin`, `process.stdout` and `process.stderr`; `close()` returns unread bytes to
 *   `process.stdin`.
 * - For a socket the backend has both directions and a return path, as that of `socketOps`, except for 0, 1
 *   and 2.
 * - Files and devices are read and written at the descriptor's own offset, and cannot be seeked.
 * - Pipes and sockets become non-blocking. The system keeps that flag with the open file, so another process that
 *   shares it may get `EAGAIN`.
 *
 * @param fd - The descriptor.
 * @param options - `direction`.
 * @throws {QemuFileError} `EBADF` the descriptor is not open, or is one of Node's event loop, or is 0 or 1 and
 *   /dev/null in both directions, which Node opens in place of one that is closed; `EISDIR` a directory; `EINVAL` no
 *   direction, or one that 0, 1 or 2 does not have. Operations fail with the system's own code; a write after the
 *   reader has closed fails with `EPIPE`.
 * @example
 * ```js
 * const file = new QemuFile(pipeOps(0));
 * console.log(await file.readBe32());
 * ```
 */
export function pipeOps(
  fd: number,
  options: PipeOptions = {},
): ReadOps | WriteOps | FdOps<Direction> | ConnectionOps {
  const stats = descriptorStats(fd, 'pipeOps');
  const isPipe = stats.isFIFO();
  if (fd > 2 && isOfEventLoop(fd)) {
    const reason = `descriptor ${fd} was not inherited, Node itself uses that number`;
    throw pipeError('EBADF', `${reason}; open it in the shell, as in ${fd}>FILE or ${fd}<FILE`);
  }
  if (stats.isSocket() && fd > 2) return socketOps(openSocket(fd));
  const direction = directionOf(fd, options.direction);
  if (fd > 2) return isPipe ? pipeFdOps(fd, direction) : fileOps(fd, direction);
  if (fd < 2 && isClosedStandard(fd, stats)) throw pipeError('EBADF', CLOSED[direction]);
  if (!isPipe && !stats.isSocket() && !tty.isatty(fd)) return fileOps(fd, direction);
  if (fd === 0) return readPipeOps(process.stdin, fd, true);
  return writePipeOps(fd === 1 ? process.stdout : process.stderr, fd, true);
}

function openSocket(fd: number): net.Socket {
  try {
    return new net.Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
  } catch (error) {
    throw toQemuFileError(error, { operation: 'pipeOps' });
  }
}

function fileOps(fd: number, direction: Direction): FdOps<Direction> {
  return fdOps(fd, { direction, offset: 'current', autoClose: fd > 2 });
}

function directionOf(fd: number, requested: Direction | undefined): Direction {
  if (fd > 2) {
    if (requested !== undefined) return requested;
    throw pipeError('EINVAL', `descriptor ${fd} needs a direction`);
  }
  const own = fd === 0 ? 'read' : 'write';
  if (requested === undefined || requested === own) return own;
  throw pipeError('EINVAL', `descriptor ${fd} can only be used to ${own}`);
}

function pipeError(code: string, reason: string): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'pipeOps' });
}
