import { readSync } from 'node:fs';
import type { Duplex } from 'node:stream';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileSizes } from '../../lib/contract/ops.ts';
import { noop } from '../../lib/util/noop.ts';
import { type ConnectionOps, shareTransport, type Transport } from '../shared/shared-transport.ts';
import { SOCKET_SIZES } from '../shared/sizes.ts';
import { StreamReader, StreamWriter } from '../stream/destroy-stream.ts';
import { underlyingSocket } from './underlying-socket.ts';

/** How `socketOps` behaves. */
export interface SocketOptions {
  /**
   * Milliseconds that `close()` waits, after the last byte and the FIN are with the kernel, for the
   * other end to finish too. What still comes in meanwhile is dropped. Default 1000.
   */
  lingerMs?: number | undefined;
  /**
   * Whether a TLS connection is ended in TLS's own way, by an alert (`close_notify`) before the FIN. A QEMU
   * does not read it on the main channel, and a socket that is closed with unread bytes is reset: what it
   * sent last can be lost. False ends as QEMU does there: with the FIN alone; it has no effect on a TLS
   * socket that was not made over another socket (`tls.connect` with a port). Default true.
   */
  closeNotify?: boolean | undefined;
  /** Overrules the sizes that suit the socket; QEMU's own for a stream that is none. */
  sizes?: Partial<QemuFileSizes> | undefined;
}

const LINGER_MS = 1000;

/**
 * Makes a backend over a connected (or connecting) socket, TLS socket, or any other two-way stream of
 * bytes, Node's or readable-stream's. It takes the socket over: nobody else may read, write or end it,
 * and its `allowHalfOpen` is set, because the two directions end apart.
 *
 * - One batch is one `writev`; reads hand over the socket's own chunks, uncopied. What is written to a
 *   stream that is no socket is copied first, because such a stream may keep what it was given.
 * - The other end's FIN is the end. A reset is `ECONNRESET`; writing to an end that is gone is `EPIPE` or
 *   `ECONNRESET`. (Node cannot tell a TLS connection cut by a plain FIN from one ended in order.)
 * - `shutDown(false, true)` half-closes, and answers when the FIN is with the kernel;
 *   `shutDown(true, false)` drops what still comes in; `shutDown(true, true)` destroys the socket. Whatever
 *   waits fails with `ECANCELED`; ending a direction in the middle of a batch breaks the connection.
 * - `close()` sends the FIN, waits at most `lingerMs` for the other end's, and destroys the socket. It
 *   rejects with `ECONNRESET` or `EPIPE` when the other end broke the connection before it took all bytes.
 * - `close(error)` breaks the connection: a TCP peer sees a reset. Unix sockets have none, so there the
 *   peer sees the end too early; other streams are destroyed with the error.
 * - `getReturnPath()` gives a further table over the same socket, which closes when all its tables were
 *   closed. A direction belongs to the first table that uses it, until that closes: another gets `EBUSY`.
 * - `setBlocking` does nothing: Node's sockets cannot block. `getFd` gives the socket's descriptor
 *   where Node has one, else -1; it remains Node's to close.
 *
 * @param socket - `net.Socket`, `tls.TLSSocket`, or any `Duplex` that is not in object mode.
 * @param options - `lingerMs`, `closeNotify` and `sizes`.
 */
export function socketOps(socket: Duplex, options: SocketOptions = {}): ConnectionOps {
  return shareTransport(new SocketTransport(socket, options));
}

class SocketTransport implements Transport {
  readonly sizes: Partial<QemuFileSizes> | undefined;
  readonly #socket: Duplex;
  readonly #lingerMs: number;
  /** The socket below TLS, if it is that which is to be ended. */
  readonly #endsBelow: Duplex | undefined;
  /** True for a socket of the system's; false for a stream that somebody else made. */
  readonly #isSocket: boolean;
  readonly #reader: StreamReader;
  readonly #writer: StreamWriter;
  #fin: Promise<void> | undefined;
  #isShutDown = false;
  /** The reset that the socket took for an end. */
  #reset: Error | undefined;
  /** Noted here, as a stream's own `closed` is true before its last error has been reported. */
  #hasClosed: boolean;

  constructor(socket: Duplex, options: SocketOptions) {
    this.#socket = socket;
    this.#lingerMs = options.lingerMs ?? LINGER_MS;
    this.#endsBelow = options.closeNotify === false ? underlyingSocket(socket) : undefined;
    this.#isSocket = hasHandle(socket);
    this.sizes = options.sizes ?? (this.#isSocket ? SOCKET_SIZES : undefined);
    socket.allowHalfOpen = true;
    // Stays until the socket has closed, so that a late error cannot end the process.
    socket.on('error', noop);
    this.#hasClosed = socket.closed;
    // Before the reader's own listener, which would take it for an end.
    const onEnd = () => {
      const reset = resetAtEnd(this.getFd());
      this.#reset = reset;
      if (reset === undefined) return;
      this.#reader.fail((operation, position) => toQemuFileError(reset, { operation, position }));
    };
    socket.once('end', onEnd);
    socket.once('close', () => {
      this.#hasClosed = true;
      socket.off('error', noop).off('end', onEnd);
    });
    this.#reader = new StreamReader(socket);
    this.#writer = new StreamWriter(socket);
  }

  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    return this.#reader.read(position, buffer);
  }

  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    return this.#writer.writev(this.#isSocket ? buffers : [Buffer.concat(buffers)], position);
  }

  cancelRead(error: QemuFileError): void {
    this.#reader.cancel(error);
  }

  async shutDown(read: boolean, write: boolean): Promise<void> {
    const cutsBatch = write && this.#fin === undefined && this.#writer.pending;
    if (cutsBatch) {
      this.#isShutDown = true;
      this.#break(new QemuFileError('ECANCELED', 'shut down in the middle of a batch'));
      return;
    }
    if (read && write) {
      this.#isShutDown = true;
      this.#letGo();
      this.#socket.destroy();
      return;
    }
    if (read) this.#dropInput();
    if (write) await this.#sendFin();
  }

  async close(error?: Error): Promise<void> {
    let failure: QemuFileError | undefined;
    if (error !== undefined) {
      await this.#finSent();
      this.#break(error);
    } else if (!this.#isShutDown) {
      failure = await this.#endInOrder();
    }
    this.#letGo();
    this.#socket.destroy();
    await this.#linger(['close']);
    if (failure !== undefined) throw failure;
  }

  getFd(): number {
    for (const socket of [this.#socket, underlyingSocket(this.#socket)]) {
      const fd = (socket as { _handle?: { fd?: unknown } | null } | undefined)?._handle?.fd;
      if (typeof fd === 'number' && fd >= 0) return fd;
    }
    return -1;
  }

  #sendFin(): Promise<void> {
    this.#fin ??= this.#writer.end(this.#endsBelow);
    return this.#fin;
  }

  /** Waits for a FIN on its way: libuv refuses to reset meanwhile, and Node then loses the socket, still open. */
  async #finSent(): Promise<void> {
    const ended = this.#endsBelow ?? this.#socket;
    if (!ended.writableEnded || ended.writableFinished || ended.destroyed) return;
    this.#letGo();
    await this.#linger(['finish', 'close'], ended);
  }

  async #endInOrder(): Promise<QemuFileError | undefined> {
    const socket = this.#socket;
    try {
      await this.#sendFin();
      if (!socket.readableEnded) {
        this.#dropInput();
        await this.#linger(['end', 'close']);
      }
    } catch (error) {
      return this.#lostBytes(error);
    }
    const error = socket.errored ?? this.#reset;
    return error ? this.#lostBytes(error) : undefined;
  }

  /** Where nothing was ever written, nothing was lost, however the connection ended. */
  #lostBytes(error: unknown): QemuFileError | undefined {
    if (this.#writer.bytesWritten === 0) return undefined;
    return toQemuFileError(error, { operation: 'close' });
  }

  /** Stops reading, yet lets the stream run to its end, so that the other end is not held up. */
  #dropInput(): void {
    this.#reader.close();
    this.#socket.resume();
  }

  #letGo(): void {
    this.#reader.close();
    this.#writer.close();
  }

  /** Waits for one of the events, for as long as `close()` may wait. */
  #linger(events: readonly string[], socket: Duplex = this.#socket): Promise<void> {
    if (this.#hasClosed) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(settle, this.#lingerMs);
      for (const event of events) socket.on(event, settle);
      function settle(): void {
        clearTimeout(timer);
        for (const event of events) socket.off(event, settle);
        resolve();
      }
    });
  }

  /** Destroys the socket in the way that the other end can best tell from an orderly end. */
  #break(error: Error): void {
    this.#letGo();
    const tcp = (underlyingSocket(this.#socket) ?? this.#socket) as Partial<{
      resetAndDestroy(): void;
    }>;
    try {
      tcp.resetAndDestroy?.();
    } catch {
      // Not a TCP socket.
    }
    // TLS would report the error on the socket below too, where nobody listens.
    this.#socket.destroy(this.#isSocket ? undefined : error);
  }
}

/** True for what writes through the system, and so is done with a buffer once it calls back. */
function hasHandle(socket: Duplex): boolean {
  return '_handle' in socket && socket._handle !== null && socket._handle !== undefined;
}

/**
 * Asks the system again at the end: libuv tells a reset that comes right behind bytes as an end
 * (`uv__stream_io`, on POLLHUP after a partial read), and a stream that is cut would pass for a whole one.
 *
 * @param fd - A socket that cannot block, at its end; or -1.
 */
function resetAtEnd(fd: number): Error | undefined {
  if (fd < 0) return undefined;
  try {
    readSync(fd, new Uint8Array(1));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ECONNRESET') return error as Error;
  }
  return undefined;
}
