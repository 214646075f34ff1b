import type net from 'node:net';

/** What ends the candidacy of a connection by itself. */
export interface PendingConnectionEvents {
  /** More of its first bytes have come. */
  start(candidate: PendingConnection): void;
  /** Its time is up. */
  late(candidate: PendingConnection): void;
  /** It ended, closed or broke; with the error, if it broke with one. */
  gone(candidate: PendingConnection, error: Error | undefined): void;
}

/**
 * A connection that has not been let in yet. Its first bytes are taken for a look, and given back to the
 * socket by `hold()` or `release()`: then it is as it was, paused and with no listeners of this.
 */
export class PendingConnection {
  readonly socket: net.Socket;
  /** Where it stands in the order in which the connections came. */
  readonly order: number;
  /** Address and port of the other end; undefined for a unix socket. Known here still when it is gone. */
  readonly peer: string | undefined;
  readonly #events: PendingConnectionEvents;
  readonly #address: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #start: Buffer = Buffer.alloc(0);
  #isReading = false;

  /**
   * @param socket - Connected, paused, without listeners.
   * @param order - Its number.
   * @param events - Called only between `read()` and `release()` or `abandon()`.
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

  /** The first bytes that came. */
  get start(): Buffer {
    return this.#start;
  }

  /** Whether another connection comes from the same address, ports aside. Unix sockets have but one. */
  hasAddressOf(other: PendingConnection): boolean {
    return this.#address === other.#address;
  }

  /** Takes the first bytes as they come, for some time. */
  read(firstByteMs: number): void {
    this.#isReading = true;
    this.#timer = setTimeout(() => this.#events.late(this), firstByteMs);
    // A socket that is paused stays so when it gets its first listener.
    this.socket.on('data', this.#onData).on('end', this.#onEnd);
    this.socket.on('error', this.#onGone).on('close', this.#onClose);
    this.socket.resume();
  }

  /** Stops reading, and gives the socket its bytes back; that it breaks is noticed on. */
  hold(): void {
    if (!this.#isReading) return;
    this.#stopReading();
    this.socket.pause();
    if (this.#start.length > 0) this.socket.unshift(this.#start);
    // The memory is the socket's again, whose owner may free it.
    this.#start = Buffer.alloc(0);
  }

  /** As `hold()`, and lets go of the socket. */
  release(): net.Socket {
    this.hold();
    this.#detach();
    return this.socket;
  }

  /** Lets go of a socket that is going to be destroyed. */
  abandon(): net.Socket {
    this.#stopReading();
    this.#detach();
    return this.socket;
  }

  #stopReading(): void {
    this.#isReading = false;
    clearTimeout(this.#timer);
    this.socket.off('data', this.#onData).off('end', this.#onEnd);
  }

  #detach(): void {
    this.socket.off('error', this.#onGone).off('close', this.#onClose);
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#start = this.#start.length === 0 ? chunk : Buffer.concat([this.#start, chunk]);
    this.#events.start(this);
  };

  readonly #onEnd = (): void => this.#events.gone(this, undefined);

  readonly #onGone = (error: Error): void => this.#events.gone(this, error);

  readonly #onClose = (): void => this.#events.gone(this, undefined);
}
