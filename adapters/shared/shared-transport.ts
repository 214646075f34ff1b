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
  reader: object | undefined;
  writer: object | undefined;
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

function makeOps(shared: SharedConnection): ConnectionOps {
  const { transport } = shared;
  const self = {};
  let closing: Promise<void> | undefined;
  let isReading = false;
  let isWriting = false;
  shared.openCount += 1;

  // Async functions around the operations would cost several promises for each chunk (bench/read-pages.ts).
  const readDone = (): void => {
    isReading = false;
  };
  const writeDone = (): void => {
    isWriting = false;
  };

  async function leave(error?: Error): Promise<void> {
    shared.openCount -= 1;
    const isLast = shared.openCount === 0;
    const wasWriter = shared.writer === self;
    const isCut = isWriting;
    // A backend that closes during a batch keeps the direction: no other may write after half a batch.
    if (wasWriter && !isCut) shared.writer = undefined;
    if (shared.reader === self) {
      shared.reader = undefined;
      transport.cancelRead(
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

  const ops: ConnectionOps = {
    getBuffer(buffer, position) {
      if (closing !== undefined) throw closedError('getBuffer');
      shared.reader ??= self;
      if (shared.reader !== self) throw busyError('getBuffer', 'read');
      if (isReading) throw pendingError('getBuffer');
      const unread = shared.unread.shift();
      if (unread !== undefined) return unread;
      const answer = transport.getBuffer(buffer, position);
      if (typeof answer === 'number' || answer instanceof Uint8Array) return answer;
      isReading = true;
      answer.then(readDone, readDone);
      return answer;
    },

    writevBuffer(buffers, position) {
      if (closing !== undefined) throw closedError('writevBuffer');
      shared.writer ??= self;
      if (shared.writer !== self) throw busyError('writevBuffer', 'written');
      if (isWriting) throw pendingError('writevBuffer');
      shared.wasWritten = true;
      const answer = transport.writevBuffer(buffers, position);
      if (typeof answer === 'number') return answer;
      isWriting = true;
      answer.then(writeDone, writeDone);
      return answer;
    },

    close(error) {
      closing ??= leave(error);
      return closing;
    },

    unread(chunks) {
      shared.unread.unshift(chunks);
    },

    setBlocking() {},

    getReturnPath: () => (closing === undefined ? makeOps(shared) : null),

    share() {
      if (closing !== undefined) throw closedError('share');
      return makeOps(shared);
    },

    shutDown(read, write) {
      if (closing !== undefined) throw closedError('shutDown');
      return transport.shutDown(read, write);
    },

    getFd: () => (closing === undefined ? transport.getFd() : -1),
  };
  return transport.sizes === undefined ? ops : { ...ops, sizes: transport.sizes };
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
