import { readSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { hasFastPath } from './fast-path.ts';
import { descriptorOf, FIRST_OWN_FD } from './socket-handle.ts';
import { SocketPoll } from './socket-poll.ts';

/** Size of Node's reads from a socket: a chunk of this size means that the kernel has more. */
const NODE_READ_BYTES = 65_536;

/**
 * A fast path: read from a socket's own descriptor, past libuv, into memory that is used again. Node reads
 * each 64 KiB into fresh memory, which is cold and has to be collected: twice the time, on Linux with Node
 * 20 to 26 (bench/read-pages.ts). The socket's `bytesRead` does not see these bytes.
 *
 * Node still reads the first bytes and the end, and streams without a descriptor and TLS, which has buffers of its
 * own.
 */
export class DirectRead {
  readonly #socket: Socket | undefined;
  /** Whether the kernel probably has more. To learn that it has not costs as much as reading 64 KiB. */
  #isLikely = false;
  #hasBegun = false;
  /** Set while the stream does not read. */
  #poll: SocketPoll | undefined;

  /** @param stream - The stream whose chunks are reported to `arrived`. */
  constructor(stream: Readable) {
    const isPlain = stream instanceof Socket && !('encrypted' in stream) && !('isTTY' in stream);
    this.#socket = isPlain && hasFastPath() ? stream : undefined;
  }

  /** Whether the stream can be read directly: not before Node has read its first chunk, or failed to connect. */
  get isAvailable(): boolean {
    return this.#fd >= 0;
  }

  get #fd(): number {
    if (!this.#hasBegun || this.#socket === undefined) return -1;
    const fd = descriptorOf(this.#socket);
    return fd >= FIRST_OWN_FD ? fd : -1;
  }

  /** Note a chunk that the stream emitted. */
  arrived(bytes: number): void {
    this.#hasBegun = true;
    this.#isLikely = bytes >= NODE_READ_BYTES;
  }

  /**
   * Read the bytes that follow all chunks of the stream.
   *
   * @param space - Where to put bytes, from its start.
   * @returns Number of bytes; 0 where the stream must report what comes next.
   * @throws The system's own error. The stream has been destroyed with it.
   */
  read(space: Uint8Array): number {
    const socket = this.#socket;
    if (socket === undefined || space.length === 0) return 0;
    // Bytes pile up in the kernel while the socket is paused. Those that it holds come first.
    if (!this.#isLikely && (this.#poll !== undefined || !socket.isPaused())) return 0;
    if (socket.readableLength > 0 || socket.readableEnded) return 0;
    const fd = this.#fd;
    if (fd < 0) return 0;
    this.#isLikely = false;
    let bytes = 0;
    try {
      bytes = readSync(fd, space, 0, space.length, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return 0;
      // As after a read of Node's own: a reset is reported once, and then an end.
      socket.destroy(error as Error);
      throw error;
    }
    this.#isLikely = bytes === space.length;
    return bytes;
  }

  /**
   * Have `onReadable` called whenever the kernel has bytes, the end or an error, instead of having the stream read.
   *
   * @returns False where the stream must wait.
   */
  wait(onReadable: () => void): boolean {
    const socket = this.#socket;
    if (socket === undefined || socket.readableLength > 0 || this.#fd < 0) return false;
    this.#poll ??= SocketPoll.of(socket);
    this.#isLikely = true;
    return this.#poll?.start(onReadable) ?? false;
  }

  /** Do not wait until the next `wait()`. */
  stopWaiting(): void {
    this.#poll?.stop();
  }

  /** Have the stream read again. */
  giveBack(): void {
    this.#poll?.giveBack();
    this.#poll = undefined;
  }
}
