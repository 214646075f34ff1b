import { readSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';

/** What Node reads into from a socket at a time: a chunk of this size says that more is there. */
const NODE_READ_SIZE = 65_536;

/** The first descriptor that is not shared with whoever started this process, who may make it block. */
const FIRST_OWN_FD = 3;

/**
 * Reads what the kernel has for a socket or a pipe straight into memory that is used again. Node itself
 * reads each 64 KiB into memory of their own, which is cold and has to be collected: twice the time
 * (bench/read-pages.ts). Waiting is left to Node, and so is all that has no descriptor or, as TLS does, has
 * its own idea of what is on the wire.
 */
export class DirectRead {
  readonly #socket: Socket | undefined;
  /** Whether there is probably more: to be told that there is not costs as much as reading 64 KiB. */
  #isLikely = false;
  #hasBegun = false;

  /** @param stream - One whose chunks are told to `arrived`. */
  constructor(stream: Readable) {
    const plain = stream instanceof Socket && !('encrypted' in stream) && !('isTTY' in stream);
    this.#socket = plain ? stream : undefined;
  }

  /** Told of each chunk that the stream gave. */
  arrived(bytes: number): void {
    this.#hasBegun = true;
    this.#isLikely = bytes >= NODE_READ_SIZE;
  }

  /** The descriptor to read, -1 if there is none. The first chunk comes from Node: so does why it failed to connect. */
  get fd(): number {
    const socket = this.#socket as { _handle?: { fd?: unknown } | null } | undefined;
    if (!this.#hasBegun || socket === undefined) return -1;
    const fd = socket._handle?.fd;
    return typeof fd === 'number' && fd >= FIRST_OWN_FD ? fd : -1;
  }

  /**
   * Reads what is there after all chunks that the stream gave.
   *
   * @param space - Where to put bytes, from its start.
   * @returns How many; 0 where it is for the stream to tell what comes next.
   * @throws The system's own error, which the stream may never hear of.
   */
  read(space: Uint8Array): number {
    const socket = this.#socket;
    if (socket === undefined || space.length === 0) return 0;
    // While it is paused bytes pile up in the kernel. What the stream holds comes before them.
    if (!this.#isLikely && !socket.isPaused()) return 0;
    if (socket.readableLength > 0 || socket.readableEnded) return 0;
    const { fd } = this;
    if (fd < 0) return 0;
    this.#isLikely = false;
    let bytes = 0;
    try {
      bytes = readSync(fd, space, 0, space.length, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return 0;
      throw error;
    }
    this.#isLikely = bytes === space.length;
    return bytes;
  }
}
