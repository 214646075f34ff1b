import fs from 'node:fs';
import net from 'node:net';
import tty from 'node:tty';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { type Direction, type FdOps, fdOps } from '../file/fd.ts';
import type { ConnectionOps } from '../shared/shared-transport.ts';
import { socketOps } from '../socket/socket.ts';
import { pipeTable } from './fifo.ts';
import { type PipeOps, readTable, writeTable } from './pipe-ends.ts';

/** How an inherited descriptor is used. */
export interface PipeOptions {
  /**
   * Which way bytes go. Default: `read` for 0, `write` for 1 and 2; the others need it, except sockets,
   * which are always two-way.
   */
  direction?: Direction | undefined;
}

/**
 * Makes a backend of a descriptor that this process was given, whatever it is of: a pipe, a socket, a
 * terminal, a file or a device. QEMU's `fd:N`, and `-`, which is 0 or 1.
 *
 * - Descriptors over 2 are the backend's from then on, and closed by `close()`.
 * - 0, 1 and 2 stay open, since their numbers must not come to mean something else: the other end of
 *   standard output sees the end when the process exits. Where they are pipes, sockets or terminals it is
 *   `process.stdin`, `process.stdout` and `process.stderr` that are used; `close()` gives back to
 *   `process.stdin` what was read ahead.
 * - A socket gives a two-way table with a return path, as `socketOps` does, except as 0, 1 or 2.
 * - Files and devices are read and written at the descriptor's own offset, which goes on from where
 *   whoever opened it had come to; they have no seeking.
 * - Pipes and sockets become non-blocking for whoever else holds the same open file, since the system
 *   keeps that in it: a process that shares one and is not ready for that meets `EAGAIN`.
 *
 * @param fd - The descriptor.
 * @param options - `direction`.
 * @throws {QemuFileError} `EBADF` no such descriptor; `EISDIR` a directory; `EINVAL` no direction, or one
 *   that 0, 1 or 2 does not have. Operations fail with the system's own code; a reader that has left is
 *   `EPIPE`.
 * @example
 * ```js
 * const file = new QemuFile(pipeOps(0));
 * console.log(await file.readBe32());
 * ```
 */
export function pipeOps(fd: number, options: PipeOptions = {}): PipeOps | FdOps | ConnectionOps {
  const stats = statOf(fd);
  const isPipe = stats.isFIFO();
  if (stats.isSocket() && fd > 2) return socketOps(openSocket(fd));
  const direction = directionOf(fd, options.direction);
  if (fd > 2) return isPipe ? pipeTable(fd, direction) : fileTable(fd, direction);
  if (!isPipe && !stats.isSocket() && !tty.isatty(fd)) return fileTable(fd, direction);
  if (fd === 0) return readTable(process.stdin, fd, true);
  return writeTable(fd === 1 ? process.stdout : process.stderr, fd, true);
}

function openSocket(fd: number): net.Socket {
  try {
    return new net.Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
  } catch (error) {
    throw toQemuFileError(error, { operation: 'pipeOps' });
  }
}

function fileTable(fd: number, direction: Direction): FdOps {
  return fdOps(fd, { direction, offset: 'current', autoClose: fd > 2 });
}

function directionOf(fd: number, wanted: Direction | undefined): Direction {
  if (fd > 2) {
    if (wanted !== undefined) return wanted;
    throw pipeError('EINVAL', `descriptor ${fd} needs a direction`);
  }
  const own = fd === 0 ? 'read' : 'write';
  if (wanted === undefined || wanted === own) return own;
  throw pipeError('EINVAL', `descriptor ${fd} cannot be used to ${wanted}`);
}

function statOf(fd: number): fs.Stats {
  try {
    return fs.fstatSync(fd);
  } catch (error) {
    throw toQemuFileError(error, { operation: 'pipeOps' });
  }
}

function pipeError(code: string, reason: string): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'pipeOps' });
}
