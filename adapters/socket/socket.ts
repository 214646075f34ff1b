import type { Duplex } from 'node:stream';
import { checkMethods } from '../../lib/contract/argument-error.ts';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileSizes } from '../../lib/contract/ops.ts';
import { waitFor } from '../../lib/contract/wait-for.ts';
import { noop } from '../../lib/util/noop.ts';
import { type ConnectionOps, shareTransport, type Transport } from '../shared/shared-transport.ts';
import { SOCKET_SIZES } from '../shared/sizes.ts';
import { descriptorOf, hasHandle } from '../stream/socket-handle.ts';
import { StreamReader } from '../stream/stream-reader.ts';
import { StreamWriter } from '../stream/stream-writer.ts';
import { isEndWithoutNotify } from '../stream/tls-reason.ts';
import { resetAtEnd } from './reset-at-end.ts';
import { underlyingSocket } from './underlying-socket.ts';

/** How `socketOps` behaves. */
export interface SocketOptions {
  /**
   * Milliseconds that `close()` waits for the peer's end, after the kernel has the last byte and the FIN.
   * Bytes that arrive meanwhile are dropped. Default 1000.
   */
  lingerMs?: number | undefined;
  /**
   * Whether a TLS connection ends with TLS's own alert (`close_notify`) before the FIN. QEMU does not read the
   * alert on the main channel, and the kernel resets a socket that is closed with unread bytes: the last bytes
   * of the stream can be lost. False ends with the FIN alone, as QEMU does there; it has no effect on a TLS
   * socket that made its own connection (`tls.connect` with a port). Default true.
   */
  closeNotify?: boolean | undefined;
  /** Overrule the sizes that suit the socket; for a stream that is not a socket, QEMU's own. */
  sizes?: Partial<QemuFileSizes> | undefined;
}

const LINGER_MS = 1000;

/**
 * Make a backend of a connected (or connecting) socket, TLS socket, or any other two-way stream of bytes, of
 * Node or readable-stream. The backend owns the socket: no other code may read, write or end it. It sets
 * `allowHalfOpen`, because the two directions end separately.
 *
 * - One batch is one `writev`. Reads return the socket's own chunks, uncopied. Batches for a stream that is
 *   not a socket are copied first, because such a stream may keep its buffers.
 * - Without `closeNotify`, a peer with OpenSSL 3 answers the FIN with the alert `decode_error`, when it has read
 *   all bytes before it. That alert is the end of its direction; the same alert before the FIN is an error.
 * - The peer's FIN is the end. A reset is `ECONNRESET`; writing to a peer that is gone is `EPIPE` or
 *   `ECONNRESET`. (Node cannot tell a TLS connection cut by a plain FIN from one that ended in order.)
 * - `shutDown(false, true)` half-closes, and resolves when the kernel has the FIN; `shutDown(true, false)`
 *   drops further input; `shutDown(true, true)` destroys the socket. Pending calls fail with `ECANCELED`; to
 *   end a direction during a batch breaks the connection.
 * - `close()` sends the FIN, waits at most `lingerMs` for the peer's, and destroys the socket. It rejects with
 *   `ECONNRESET` or `EPIPE` when the peer broke the connection before it had all bytes.
 * - `close(error)` breaks the connection: a TCP peer sees a reset. Unix sockets have none, so their peer sees
 *   an early end; other streams are destroyed with the error.
 * - `getReturnPath()` returns a further backend over the same socket, which closes when all its backends are
 *   closed. A direction belongs to the first backend that uses it, until that closes: others get `EBUSY`.
 * - `setBlocking` does nothing, because Node's sockets cannot block. `getFd` returns the socket's descriptor,
 *   or -1; it remains Node's to close.
 *
 * @param socket - `net.Socket`, `tls.TLSSocket`, or any `Duplex` that is not in object mode.
 * @param options - `lingerMs`, `closeNotify` and `sizes`.
 * @throws {QemuFileError} Operations fail with the socket's own code, as above; none is thrown here.
 * @throws {TypeError} if `socket` is not a `Duplex`.
 */
export function socketOps(socket: Duplex, options: SocketOptions = {}): ConnectionOps {
  checkMethods('socketOps', 'socket', DUPLEX, socket);
  return shareTransport(new SocketTransport(socket, options));
}

const DUPLEX = { methods: ['on', 'read', 'write', 'destroy'], allowed: 'a Duplex of node:stream' };

class SocketTransport implements Transport {
  readonly sizes: Partial<QemuFileSizes> | undefined;
  readonly #socket: Duplex;
  readonly #lingerMs: number;
  /** The socket under TLS, if that is to be ended in place of the TLS socket. */
  readonly #endsBelow: Duplex | undefined;
  /** False for a stream that may keep the buffers it was given. */
  readonly #isSocket: boolean;
  readonly #reader: StreamReader;
  readonly #writer: StreamWriter;
  /** Resolves when the FIN is with the kernel; undefined before it is sent. */
  #fin: Promise<void> | undefined;
  #isShutDown = false;
  /** The reset that Node reported as an end. */
  #reset: Error | undefined;
  /** The peer's complaint about the end without `close_notify`, which it was sent on purpose. */
  #endAlert: Error | undefined;
  /** Unlike the stream's own `closed`, true only after its last error was emitted. */
  #hasClosed: boolean;

  constructor(socket: Duplex, options: SocketOptions) {
    this.#socket = socket;
    this.#lingerMs = options.lingerMs ?? LINGER_MS;
    this.#endsBelow = options.closeNotify === false ? underlyingSocket(socket) : undefined;
    this.#isSocket = hasHandle(socket);
    this.sizes = options.sizes ?? (this.#isSocket ? SOCKET_SIZES : undefined);
    socket.allowHalfOpen = true;
    // Stays until the socket has closed, so that a late error does not end the process.
    socket.on('error', noop);
    this.#hasClosed = socket.closed;
    // Added before the reader's own listener, which would report an end.
    const onEnd = () => {
      const reset = resetAtEnd(this.getFd());
      this.#reset = reset;
      if (reset === undefined) return;
      this.#reader.fail((operation, position) => toQemuFileError(reset, { operation, position }));
    };
    // Added before the reader's own listener, which would report a failure.
    const onError = (error: Error) => {
      if (!this.#endsBelow?.writableFinished || !isEndWithoutNotify(error)) return;
      this.#endAlert = error;
      this.#reader.end();
    };
    socket.on('error', onError);
    socket.once('end', onEnd);
    socket.once('close', () => {
      this.#hasClosed = true;
      socket.off('error', noop).off('error', onError).off('end', onEnd);
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
      this.#detach();
      this.#socket.destroy();
      return;
    }
    if (read) this.#dropInput();
    if (write) await this.#sendFin();
  }

  async close(error?: Error): Promise<void> {
    let failure: QemuFileError | undefined;
    if (error !== undefined) {
      await this.#whenFinSent();
      this.#break(error);
    } else if (!this.#isShutDown) {
      failure = await this.#endInOrder();
    }
    this.#detach();
    this.#socket.destroy();
    await this.#linger(['close']);
    if (failure !== undefined) throw failure;
  }

  getFd(): number {
    const fd = descriptorOf(this.#socket);
    const raw = underlyingSocket(this.#socket);
    return fd < 0 && raw !== undefined ? descriptorOf(raw) : fd;
  }

  #sendFin(): Promise<void> {
    this.#fin ??= this.#writer.end(this.#endsBelow);
    return this.#fin;
  }

  /** Wait for a FIN that is being sent: libuv cannot reset meanwhile, and Node would lose the open socket. */
  async #whenFinSent(): Promise<void> {
    const ended = this.#endsBelow ?? this.#socket;
    if (!ended.writableEnded || ended.writableFinished || ended.destroyed) return;
    this.#detach();
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
    if (error && error === this.#endAlert) return undefined;
    return error ? this.#lostBytes(error) : undefined;
  }

  /** Return the failure of the close. Where nothing was written, nothing was lost. */
  #lostBytes(error: unknown): QemuFileError | undefined {
    if (this.#writer.bytesWritten === 0) return undefined;
    return toQemuFileError(error, { operation: 'close' });
  }

  /** Stop reading, but let the stream flow to its end, so that the peer is not blocked. */
  #dropInput(): void {
    this.#reader.close();
    this.#socket.resume();
  }

  #detach(): void {
    this.#reader.close();
    this.#writer.close();
  }

  /** Wait for one of the events, at most `lingerMs`. */
  async #linger(events: readonly string[], socket: Duplex = this.#socket): Promise<void> {
    if (this.#hasClosed) return;
    await waitFor<void>(
      (resolve) => {
        const onEvent = () => resolve();
        const timer = setTimeout(onEvent, this.#lingerMs);
        for (const event of events) socket.on(event, onEvent);
        return () => {
          clearTimeout(timer);
          for (const event of events) socket.off(event, onEvent);
        };
      },
      { operation: 'close' },
    );
  }

  /** Destroy the socket in the way that differs most from an orderly end for the peer. */
  #break(error: Error): void {
    this.#detach();
    const tcp = (underlyingSocket(this.#socket) ?? this.#socket) as Partial<{
      resetAndDestroy(): void;
    }>;
    try {
      tcp.resetAndDestroy?.();
    } catch {
      // Not a TCP socket.
    }
    // TLS would emit the error on the socket under it too, which has no listener.
    this.#socket.destroy(this.#isSocket ? undefined : error);
  }
}
