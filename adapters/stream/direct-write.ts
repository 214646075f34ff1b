import { writevSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Writable } from 'node:stream';
import { hasFastPath } from './fast-path.ts';
import { descriptorOf, FIRST_OWN_FD } from './socket-handle.ts';

/** Most buffers of one writev(2) on Linux. */
const MAX_BUFFERS = 1024;

/**
 * A fast path: write to a socket's own descriptor, past libuv, as much as the kernel takes at once. A write through
 * Node costs a request, callbacks, and for each of its buffers an entry in three lists, on Linux with Node 20 to 26
 * (bench/write-pages.ts). The socket's `bytesWritten` and timeouts do not see these bytes.
 *
 * Node still writes what the kernel does not take at once, streams without a descriptor, and TLS.
 */
export class DirectWrite {
  readonly #socket: Socket | undefined;

  /** @param stream - The stream that writes everything else. */
  constructor(stream: Writable) {
    const isPlain = stream instanceof Socket && !('encrypted' in stream) && !('isTTY' in stream);
    this.#socket = isPlain && hasFastPath() ? stream : undefined;
  }

  /**
   * Write the bytes that follow all writes of the stream.
   *
   * @returns Number of bytes that the kernel took; 0 where the stream must write.
   * @throws The system's own error. The stream has been destroyed with it, as after a write of its own: the kernel
   *   reports a reset only once, and a reader would take it for the end.
   */
  write(buffers: readonly Uint8Array[]): number {
    const socket = this.#socket;
    if (socket === undefined || socket.connecting || socket.destroyed) return 0;
    if (socket.writableLength > 0 || socket.writableEnded || socket.writableCorked > 0) return 0;
    const fd = descriptorOf(socket);
    if (fd < FIRST_OWN_FD) return 0;
    try {
      return writevSync(fd, buffers.length > MAX_BUFFERS ? buffers.slice(0, MAX_BUFFERS) : buffers);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return 0;
      socket.destroy(error as Error);
      throw error;
    }
  }
}
