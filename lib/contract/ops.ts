import type { Duplex } from 'node:stream';

/** A value, or a promise of it: an operation may return either. */
export type MaybePromise<T> = T | PromiseLike<T>;

/** Which way bytes go: `read` out of the backend, `write` into it. */
export type Direction = 'read' | 'write';

/** Returns the descriptor under a backend, or -1 if there is none. @see QEMU `QEMUFileGetFD` */
export type QemuFileGetFd = () => number;

/** Where `setOffset` counts from, as in lseek(2). */
export type Whence = 'set' | 'current' | 'end';

/** Sizes that suit a backend best, in bytes unless noted. The options of a file override them. */
export interface QemuFileSizes {
  /** Staging area of copied bytes. Default 32768. */
  stagingSize: number;
  /** Greatest number of entries in one gather list. Default 64. */
  gatherEntries: number;
  /**
   * Buffers put by reference are copied up to this size, for backends to which an entry of the gather list
   * costs more than the copy. At most `stagingSize`. Default 0: none is copied.
   */
  copyLimit: number;
  /** Bytes that may wait for the backend before the transport gate shuts. Default 262144. */
  highWaterMark: number;
  /** Size of the buffer given to `getBuffer`. Default 65536. */
  lookAheadSize: number;
}

/**
 * A backend: the table of transport operations under a `QemuFile`. All may be absent but one of
 * `getBuffer` and `writevBuffer`. Each may return a value or a promise, and fails by throwing, by rejecting, or
 * by returning a negative errno.
 *
 * @see QEMU `QEMUFileOps`
 */
export interface QemuFileOps {
  /**
   * Read the next bytes; wait for at least one. Absent: the file cannot be read.
   *
   * @param buffer - Where to put bytes, from its start.
   * @param position - Offset in the stream of the first byte asked for; stream transports ignore it.
   * @returns The number of bytes put into `buffer` (0 is the end), or a `Uint8Array` that the backend owns
   *   and will not use again (an empty one is the end).
   */
  getBuffer?(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array>;

  /**
   * Write all the given bytes, in order. Called again only after it has answered. Absent: the file
   * cannot be written.
   *
   * @param buffers - At least one buffer; the backend may use them until it answers.
   * @param position - Offset in the stream of the first byte.
   * @returns The number of bytes taken. Any other number than all of them is a failure.
   */
  writevBuffer?(buffers: readonly Uint8Array[], position: number): MaybePromise<number>;

  /**
   * Close the transport, free its resources, and wake a pending `getBuffer`. Called once. Absent: there is
   * nothing to free.
   *
   * @param error - Present if the stream is not whole: it failed, or it was destroyed after bytes were put
   *   and before its end. A backend that publishes its result (a file, an upload) must then not publish it.
   * @returns Nothing, or a number that `QemuFile.close()` returns if nothing failed earlier.
   */
  close?(error?: Error): MaybePromise<number | void>;

  /** Set whether reads may block the thread until bytes are available. Absent: the call does nothing. */
  setBlocking?(blocking: boolean): void;

  /**
   * Return the other direction over the same transport, as a table of its own or as a `QemuFile`. The
   * transport closes when both have been closed. Absent, or null: there is none.
   */
  getReturnPath?(): QemuFileOps | Duplex | null | undefined;

  /**
   * End directions at once and wake the operations that wait in them. A file half-closes with
   * `(false, true)` after the last byte. Absent: `shutdown()` returns `-ENOSYS`.
   */
  shutDown?(read: boolean, write: boolean): MaybePromise<number | void>;

  /**
   * Take back, in order, the bytes that were read and not consumed when the file was closed: the next file
   * on the same transport reads them first. Absent: those bytes are lost.
   */
  unread?(chunks: readonly Uint8Array[]): void;

  /** Return the descriptor, or -1. Absent: -1. */
  getFd?: QemuFileGetFd;

  /**
   * Move the transport's offset; on seekable backends only.
   *
   * @returns The new offset in bytes from the start.
   */
  setOffset?(offset: number, whence: Whence): MaybePromise<number>;

  /** Return the transport's own offset in bytes; on seekable backends only. */
  getOffset?(): MaybePromise<number>;

  /** Write a buffer at an offset without moving the stream; return the bytes written. Seekable backends only. */
  putBufferAt?(buffer: Uint8Array, offset: number): MaybePromise<number>;

  /** Read into a buffer from an offset without moving the stream; return the bytes read. Seekable backends only. */
  getBufferAt?(buffer: Uint8Array, offset: number): MaybePromise<number>;

  /** Sizes that suit this backend best. Absent: QEMU's own. */
  readonly sizes?: Partial<QemuFileSizes>;
}

/** Members of every backend of this package beside its directions. */
interface BackendOps extends QemuFileOps {
  close(error?: Error): Promise<void>;
  shutDown(read: boolean, write: boolean): MaybePromise<void>;
  getFd(): number;
}

/** A backend that can only be read. */
export interface ReadOps extends BackendOps {
  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array>;
  writevBuffer?: never;
}

/** A backend that can only be written. */
export interface WriteOps extends BackendOps {
  getBuffer?: never;
  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number>;
}

/** A backend that can be read and written. */
export interface DuplexOps extends BackendOps {
  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array>;
  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number>;
}

/** The backend that an opener returns for a direction; for a `Direction` known only at run time, either one. */
export type OpsOf<D extends Direction | 'both'> = D extends 'read'
  ? ReadOps
  : D extends 'write'
    ? WriteOps
    : DuplexOps;
