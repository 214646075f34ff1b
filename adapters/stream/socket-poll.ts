import { readSync } from 'node:fs';
import type { Socket } from 'node:net';
import { type StreamHandle, streamHandleOf } from './socket-handle.ts';

/** Empty, but with an address: Node does not call back for an error without one. */
const NOTHING = new Uint8Array(new ArrayBuffer(8), 0, 0);

/** As many bytes as Node reads at once. */
const READ_BYTES = 65_536;

const polls = new WeakMap<StreamHandle, SocketPoll>();

/**
 * A fast path, used with `DirectRead` only: learn from libuv that a socket is readable, without a read. Node has
 * no public way: it waits by reading 64 KiB into fresh memory. A handle that is given an empty buffer calls back
 * as soon as the socket is readable, with bytes, its end or an error, on Linux with Node 20 to 26
 * (bench/relay.ts, unix → unix).
 *
 * Node cannot read the socket by itself again. While no reader waits, this class reads for the socket's stream when the
 * stream asks, as Node would.
 */
export class SocketPoll {
  readonly #socket: Socket;
  readonly #handle: StreamHandle;
  #onReadable: (() => void) | undefined;

  private constructor(socket: Socket, handle: StreamHandle) {
    this.#socket = socket;
    this.#handle = handle;
    handle.useUserBuffer(NOTHING);
    handle.onread = this.#onEvent;
  }

  /** Return the poll of a connected socket; undefined where Node is not as expected. */
  static of(socket: Socket): SocketPoll | undefined {
    const handle = streamHandleOf(socket);
    if (handle === undefined) return undefined;
    const poll = polls.get(handle) ?? new SocketPoll(socket, handle);
    polls.set(handle, poll);
    return poll;
  }

  /**
   * Call `onReadable` again and again while the socket is readable, until `stop()` or `giveBack()`. The stream
   * gets nothing meanwhile.
   *
   * @returns Whether the socket could be watched.
   */
  start(onReadable: () => void): boolean {
    this.#onReadable = onReadable;
    if (this.#handle.reading) return true;
    this.#handle.reading = this.#handle.readStart() === 0;
    return this.#handle.reading;
  }

  stop(): void {
    if (this.#socket.destroyed || !this.#handle.reading) return;
    this.#handle.reading = false;
    this.#handle.readStop();
  }

  /** Let the stream read again. */
  giveBack(): void {
    if (this.#onReadable === undefined) return;
    this.#onReadable = undefined;
    if (this.#socket.destroyed) return;
    this.stop();
    // Ends the stream's wait for the chunk that it asked for: it asks anew.
    this.#socket.push(NOTHING);
  }

  readonly #onEvent = (): void => {
    const { timeout } = this.#socket;
    // Starts the time anew.
    if (timeout !== undefined && timeout > 0) this.#socket.setTimeout(timeout);
    if (this.#onReadable === undefined) this.#readForStream();
    else this.#onReadable();
  };

  #readForStream(): void {
    const socket = this.#socket;
    const chunk = Buffer.allocUnsafeSlow(READ_BYTES);
    let bytes = 0;
    try {
      bytes = readSync(this.#handle.fd, chunk, 0, chunk.length, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') socket.destroy(error as Error);
      return;
    }
    if (bytes === 0) {
      this.stop();
      socket.push(null);
      // Also a paused stream that holds no bytes emits its end then.
      socket.read(0);
      return;
    }
    const isSmall = bytes <= READ_BYTES / 2;
    const filled = chunk.subarray(0, bytes);
    if (!socket.push(isSmall ? Buffer.from(filled) : filled)) this.stop();
  }
}
