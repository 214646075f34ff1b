import { QemuFileError } from '../../lib/contract/errors.ts';
import type { DuplexOps, MaybePromise, QemuFileSizes } from '../../lib/contract/ops.ts';

/** A two-way connection as the tables over it use it: one read and one write at a time, closed once. */
export interface Transport {
  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array>;
  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number>;
  /** Wakes a waiting read with an error, and takes no byte for it. */
  cancelRead(error: QemuFileError): void;
  shutDown(read: boolean, write: boolean): MaybePromise<void>;
  /** With an error: breaks the connection, so that the other end sees a failure and not an end. */
  close(error?: Error): MaybePromise<void>;
  getFd(): number;
  readonly sizes?: Partial<QemuFileSizes> | undefined;
}

/** A two-way backend that further backends can share the connection of. */
export interface ConnectionOps extends DuplexOps {
  setBlocking(blocking: boolean): void;
  getReturnPath(): ConnectionOps | null;
  /**
   * Return a further table over the same connection, for another file on it: after this one, or beside it
   * in the other direction. The connection closes when all its tables were closed.
   *
   * @throws {QemuFileError} `EBADF` after `close()`.
   */
  share(): ConnectionOps;
  unread(chunks: readonly Uint8Array[]): void;
}

/**
 * Makes the first table over a two-way connection; its `getReturnPath` makes the further ones, and
 * the connection closes when all of them were closed.
 *
 * Each direction belongs to the first table that uses it, until that table closes: another one that
 * tries gets `EBUSY`. So bytes meant for one file never get into another.
 */
export function shareTransport(transport: Transport): ConnectionOps {
  return tableOver(new Shared(transport));
}

/** What the tables over one connection have in common. */
class Shared {
  readonly transport: Transport;
  tables = 0;
  /** The table that reads, and the one that writes. */
  reader: object | undefined;
  writer: object | undefined;
  wasWritten = false;
  /** What an earlier table read and did not use. */
  readonly unread: Uint8Array[] = [];
  /** Why a table failed that left the connection open for the others. */
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

function tableOver(shared: Shared): ConnectionOps {
  const { transport } = shared;
  const self = {};
  let closing: Promise<void> | undefined;
  let isReading = false;
  let isWriting = false;
  shared.tables += 1;

  // Not async functions around the answers: these cost several promises a chunk (bench/read-pages.ts).
  const readDone = (): void => {
    isReading = false;
  };
  const writeDone = (): void => {
    isWriting = false;
  };

  async function leave(error?: Error): Promise<void> {
    shared.tables -= 1;
    const isLast = shared.tables === 0;
    const wasWriter = shared.writer === self;
    const isCut = isWriting;
    // A direction stays taken by a table that left in the middle of a batch: nobody may add to it.
    if (wasWriter && !isCut) shared.writer = undefined;
    if (shared.reader === self) {
      shared.reader = undefined;
      transport.cancelRead(
        new QemuFileError('ECANCELED', 'the file was closed while it waited for bytes', {
          operation: 'getBuffer',
        }),
      );
    }
    if (isCut || (error !== undefined && (isLast || wasWriter))) {
      await shared.end(error ?? closedError('writevBuffer'));
    } else if (isLast) {
      // If nothing was ever written, the file that failed may be the one that should have.
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
      if (isReading) throw twiceError('getBuffer');
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
      if (isWriting) throw twiceError('writevBuffer');
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
      shared.unread.unshift(...chunks);
    },

    setBlocking() {},

    getReturnPath: () => (closing === undefined ? tableOver(shared) : null),

    share() {
      if (closing !== undefined) throw closedError('share');
      return tableOver(shared);
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
  return new QemuFileError('EBUSY', `this direction is ${verb} by another file on the connection`, {
    operation,
  });
}

function twiceError(operation: string): QemuFileError {
  return new QemuFileError('EBUSY', 'the call before has not answered yet', { operation });
}
