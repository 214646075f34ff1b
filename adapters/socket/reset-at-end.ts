import { readSync } from 'node:fs';

/**
 * Return the error of a connection that was reset right after bytes, which libuv reports as an end: a stream
 * that is cut would pass for a whole one. (`uv__stream_io` does so on POLLHUP after a partial read, in the
 * libuv of Node 20 to 26.) The socket is read once more, past Node, which no option switches off: at its end
 * there is nothing left that Node could miss.
 *
 * @param fd - Descriptor of a non-blocking socket at its end, or -1.
 */
export function resetAtEnd(fd: number): Error | undefined {
  if (fd < 0) return undefined;
  try {
    readSync(fd, new Uint8Array(1));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ECONNRESET') return error as Error;
  }
  return undefined;
}
