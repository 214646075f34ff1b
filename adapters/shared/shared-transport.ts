import { QemuFileError } from '../../lib/contract/errors.ts';
import type { DuplexOps, MaybePromise, QemuFileSizes } from '../../lib/contract/ops.ts';
import { Fifo } from '../../lib/util/fifo.ts';

/** A two-way connection under its backends: one read and one write at a time, closed once. */
export interface Transport {
  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array>;
  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number>;
  /** Fail a pending read with an error. No byte is lost. */
  cancelRead(error: QemuFileError): void;
  shutDown(read: boolean, write: boolean): MaybePromise<void>;
  /** With an error: break the connection, so that the peer sees a failure instead of an end. */
  close(error?: Error): MaybePromise<void>;
  getFd(): number;
  readonly sizes?: Partial<QemuFileSizes> | undefined;
}

/** A two-way backend that further backends can share the connection of. */
export interface ConnectionOps extends DuplexOps {
  setBlocking(blocking: boolean): void;
  getReturnPath(): ConnectionOps | null;
  /**
   * Return a further backend over the same connection, for another file on it: after this one, or in the
   * other direction at the same time. The connection closes when all its backends are closed.
   *
   * @throws {QemuFileError} `EBADF` after `close()`.
   */
  share(): ConnectionOps;
  unread(chunks: readonly Uint8Array[]): void;
}

/**
 * Make the first backend over a two-way connection. `getReturnPath` and `share` make further ones, and the
 * connection closes when all of them are closed.
 *
 * Each direction belongs to the first backend that uses it, until that closes; others get `EBUSY`. So bytes
 * of one file never get into another.
 */
export function shareTransport(transport: Transport): ConnectionOps {
  return makeOps(new SharedConnection(transport));
}

/** The state that the backends over one connection share. */
class SharedConnection {
  readonly transport: Transport;
  openCount = 0;
  /** The backend that reads, and the one that writes. */
  reader: ConnectionShare | undefined;
  writer: ConnectionShare | undefined;
  wasWritten = false;
  /** Chunks that an earlier backend read and did not use. */
  readonly unread = new Fifo<Uint8Array>();
  /** The error of a backend that closed with one and left the connection open for the others. */
  failure: Error | undefined;
  #ending: Promise<void> | undefined;

  constructor(transport: Transport) {
    this.transport = transport;
  }

  end(error?: Error): Promise<void> {
    this.#ending ??= Promise.resolve(this.transport.close(error));
    return this.#ending;
  }
}

/** Make a further backend. Its operations also work when a caller copies them into another table. */
function makeOps(shared: SharedConnection): ConnectionOps {
  const share = new ConnectionShare(shared);
  const ops: ConnectionOps = {
    getBuffer: (buffer, position) => share.getBuffer(buffer, position),
    writevBuffer: (buffers, position) => share.writevBuffer(buffers, position),
    close: (error) => share.close(error),
    unread: (chunks) => shared.unread.unshift(chunks),
    setBlocking() {},
    getReturnPath: () => (share.isClosed ? null : makeOps(shared)),
    share() {
      share.checkOpen('share');
      return makeOps(shared);
    },
    shutDown(read, write) {
      share.checkOpen('shutDown');
      return shared.transport.shutDown(read, write);
    },
    getFd: () => (share.isClosed ? -1 : shared.transport.getFd()),
  };
  const { sizes } = shared.transport;
  return sizes === undefined ? ops : { ...ops, sizes };
}

/** The part that one backend has in a connection: which directions are its own, and what it has in progress. */
class ConnectionShare {
  readonly #shared: SharedConnection;
  #closing: Promise<void> | undefined;
  #isReading = false;
  #isWriting = false;

  // Async functions around the operations would cost several promises for each chunk (bench/read-pages.ts).
  readonly #onReadDone = (): void => {
    this.#isReading = false;
  };
  readonly #onWriteDone = (): void => {
    this.#isWriting = false;
  };

  constructor(shared: SharedConnection) {
    this.#shared = shared;
    shared.openCount += 1;
  }

  get isClosed(): boolean {
    return this.#closing !== undefined;
  }

  checkOpen(operation: string): void {
    if (this.#closing !== undefined) throw closedError(operation);
  }

  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    this.checkOpen('getBuffer');
    const shared = this.#shared;
    shared.reader ??= this;
    if (shared.reader !== this) throw busyError('getBuffer', 'read');
    if (this.#isReading) throw pendingError('getBuffer');
    const unread = shared.unread.shift();
    if (unread !== undefined) return unread;
    const result = shared.transport.getBuffer(buffer, position);
    if (typeof result === 'number' || result instanceof Uint8Array) return result;
    this.#isReading = true;
    result.then(this.#onReadDone, this.#onReadDone);
    return result;
  }

  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    this.checkOpen('writevBuffer');
    const shared = this.#shared;
    shared.writer ??= this;
    if (shared.writer !== this) throw busyError('writevBuffer', 'written');
    if (this.#isWriting) throw pendingError('writevBuffer');
    shared.wasWritten = true;
    const result = shared.transport.writevBuffer(buffers, position);
    if (typeof result === 'number') return result;
    this.#isWriting = true;
    result.then(this.#onWriteDone, this.#onWriteDone);
    return result;
  }

  close(error?: Error): Promise<void> {
    this.#closing ??= this.#leave(error);
    return this.#closing;
  }

  async #leave(error?: Error): Promise<void> {
    const shared = this.#shared;
    shared.openCount -= 1;
    const isLast = shared.openCount === 0;
    const wasWriter = shared.writer === this;
    const isCut = this.#isWriting;
    // A backend that closes during a batch keeps the direction: no other may write after half a batch.
    if (wasWriter && !isCut) shared.writer = undefined;
    if (shared.reader === this) {
      shared.reader = undefined;
      shared.transport.cancelRead(
        new QemuFileError('ECANCELED', 'the file was closed during a read', {
          operation: 'getBuffer',
        }),
      );
    }
    if (isCut || (error !== undefined && (isLast || wasWriter))) {
      await shared.end(error ?? closedError('writevBuffer'));
    } else if (isLast) {
      // If nothing was written, the backend that failed may be the one that had to write.
      await shared.end(shared.wasWritten ? undefined : shared.failure);
    } else {
      shared.failure ??= error;
    }
  }
}

function closedError(operation: string): QemuFileError {
  return new QemuFileError('EBADF', 'the file is closed', { operation });
}

function busyError(operation: string, verb: string): QemuFileError {
  return new QemuFileError(
    'EBUSY',
    `this direction is ${verb} by another file on the connection: close that first`,
    {
      operation,
    },
  );
}

function pendingError(operation: string): QemuFileError {
  return new QemuFileError(
    'EBUSY',
    'an earlier call of the same operation is pending: await it first',
    { operation },
  );
}
