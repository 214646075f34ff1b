import type net from 'node:net';

/** Callbacks of a `PendingConnection`. */
export interface PendingConnectionEvents {
  /** More of the first bytes have arrived. */
  onBytes(connection: PendingConnection): void;
  /** The time for the first bytes is over. */
  onTimeout(connection: PendingConnection): void;
  /** The peer ended the connection, or it closed or broke; with the error, if there was one. */
  onClosed(connection: PendingConnection, error: Error | undefined): void;
}

/**
 * A connection that has not been admitted yet. Its first bytes are read for inspection; `pause()` and
 * `release()` put them back, and leave the socket as it was: paused, and with no listener of this class.
 */
export class PendingConnection {
  readonly socket: net.Socket;
  /** Sequence number, in the order in which connections arrived. */
  readonly order: number;
  /** Address and port of the peer; undefined for a unix socket. Node forgets them when a socket closes. */
  readonly peer: string | undefined;
  readonly #events: PendingConnectionEvents;
  readonly #address: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #start: Buffer = Buffer.alloc(0);
  #isReading = false;

  /**
   * @param socket - Connected, paused, without listeners.
   * @param order - Its sequence number.
   * @param events - Called only between `read()` and `release()` or `detach()`.
   */
  constructor(socket: net.Socket, order: number, events: PendingConnectionEvents) {
    const { remoteAddress: address, remotePort: port } = socket;
    this.socket = socket;
    this.order = order;
    this.#events = events;
    this.#address = address;
    const host = address?.includes(':') === true ? `[${address}]` : address;
    this.peer = host === undefined || host === '' ? undefined : `${host}:${port}`;
  }

  /** The first bytes that have arrived; empty after `pause()`. */
  get start(): Buffer {
    return this.#start;
  }

  /** Return whether both peers have the same address, ports aside. All unix sockets have the same. */
  hasAddressOf(other: PendingConnection): boolean {
    return this.#address === other.#address;
  }

  /** Start to read the first bytes. `onTimeout` is called after `firstByteMs`. */
  read(firstByteMs: number): void {
    this.#isReading = true;
    this.#timer = setTimeout(() => this.#events.onTimeout(this), firstByteMs);
    // A paused socket stays paused when it gets its first listener.
    this.socket.on('data', this.#onData).on('end', this.#onEnd);
    this.socket.on('error', this.#onError).on('close', this.#onClose);
    this.socket.resume();
  }

  /** Stop reading and put the bytes back. A connection that closes or breaks is still reported. */
  pause(): void {
    if (!this.#isReading) return;
    this.#stopReading();
    this.socket.pause();
    if (this.#start.length > 0) this.socket.unshift(this.#start);
    // The next owner of the socket may free this memory.
    this.#start = Buffer.alloc(0);
  }

  /** Pause, remove all listeners, and return the socket. */
  release(): net.Socket {
    this.pause();
    this.#removeListeners();
    return this.socket;
  }

  /** Remove all listeners and return the socket, which is about to be destroyed; its bytes are lost. */
  detach(): net.Socket {
    this.#stopReading();
    this.#removeListeners();
    return this.socket;
  }

  #stopReading(): void {
    this.#isReading = false;
    clearTimeout(this.#timer);
    this.socket.off('data', this.#onData).off('end', this.#onEnd);
  }

  #removeListeners(): void {
    this.socket.off('error', this.#onError).off('close', this.#onClose);
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#start = this.#start.length === 0 ? chunk : Buffer.concat([this.#start, chunk]);
    this.#events.onBytes(this);
  };

  readonly #onEnd = (): void => this.#events.onClosed(this, undefined);

  readonly #onError = (error: Error): void => this.#events.onClosed(this, error);

  readonly #onClose = (): void => this.#events.onClosed(this, undefined);
}
