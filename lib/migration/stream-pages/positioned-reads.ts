import { fstatSync, read, readSync } from 'node:fs';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { Unwrapped } from '../containers/unwrap.ts';
import { MigrationStreamError } from '../format/stream-error.ts';

/** Reads at any position of a stream. Position 0 is the stream's first byte. */
export interface PositionedReads {
  /** Bytes from the stream's first byte to the end of its file. */
  readonly size: number;
  /**
   * Fill a buffer.
   *
   * @throws {QemuFileError} (rejects) `EIO` if the file ends before; its failure.
   */
  read(target: Uint8Array, position: number): Promise<void>;
  /**
   * Fill a buffer without waiting, from a file that is likely to be in the page cache.
   *
   * @returns False if nothing was read.
   * @throws {QemuFileError} As `read`.
   */
  readNow(target: Uint8Array, position: number): boolean;
  /** Read up to `target.length` bytes for a pass over the stream; 0 is the end. May block the thread shortly. */
  readSome(target: Uint8Array, position: number): number | Promise<number>;
  /** @throws {QemuFileError} `EIO` if the file was written to since it was opened. */
  checkUnchanged(): void;
  /** Wait for the reads that are running, then close the file. */
  close(): Promise<void>;
}

/** Bytes after which a pass lets other work of the event loop run. */
const TURN_BYTES = 8_388_608;

/** Milliseconds that a read takes at least if its bytes come from a device. */
const MIN_DEVICE_MS = 2;

/** Milliseconds without reads that do not wait, after one that came from a device. */
const DEVICE_PAUSE_MS = 100;

/**
 * Return positioned reads of a stream.
 *
 * @param stream - The stream; owned by the result.
 * @throws {MigrationStreamError} (rejects) `unsupported` if the stream has no random access.
 */
export async function openPositionedReads(stream: Unwrapped): Promise<PositionedReads> {
  const { file, containers, fileOffset, seekable } = stream;
  if (!seekable) throw noRandomAccess(stream);
  const fd = file.getFd();
  const stats = fd >= 0 && !containers.includes('qcow2') ? fstatSync(fd) : null;
  if (stats?.isFile()) return new DescriptorReads(file, fd, stats.size, fileOffset);
  const end = await file.setOffset(0, 'end');
  if (stats?.isBlockDevice()) return new DescriptorReads(file, fd, end, fileOffset);
  return new FileReads(file, end, fileOffset);
}

function noRandomAccess({ containers }: Unwrapped): MigrationStreamError {
  const [container] = containers;
  const why =
    container === undefined
      ? 'the stream comes from a pipe or a socket'
      : `the stream is in ${containers.join(' in ')}`;
  const reason = `${why}, where its pages have no places: convert it with "qemu-file compact FROM TO"`;
  return new MigrationStreamError('unsupported', reason, { position: 0 });
}

/** Positioned reads of a regular file or a block device. */
class DescriptorReads implements PositionedReads {
  readonly size: number;
  readonly #file: QemuFile;
  readonly #fd: number;
  readonly #base: number;
  readonly #modifiedMs: number;
  #sinceTurn = 0;
  #deviceUntilMs = Number.NEGATIVE_INFINITY;
  #running = 0;
  #isClosed = false;
  #onIdle: (() => void) | null = null;

  constructor(file: QemuFile, fd: number, end: number, base: number) {
    this.#file = file;
    this.#fd = fd;
    this.#base = base;
    this.size = end - base;
    this.#modifiedMs = fstatSync(fd).mtimeMs;
  }

  read(target: Uint8Array, position: number): Promise<void> {
    if (this.#isClosed) return Promise.reject(closedError());
    return new Promise((resolve, reject) => {
      let done = 0;
      this.#running += 1;
      const settle = (error: QemuFileError | null): void => {
        this.#running -= 1;
        if (error === null) resolve();
        else reject(error);
        if (this.#running === 0) this.#onIdle?.();
      };
      const next = (): void => {
        const left = target.length - done;
        read(this.#fd, target, done, left, this.#base + position + done, (error, bytes) => {
          const context = { operation: 'read', position: position + done };
          if (error !== null) return settle(toQemuFileError(error, context));
          if (bytes === 0 && left > 0) return settle(endError(left, position + done));
          done += bytes;
          if (done < target.length) next();
          else settle(null);
        });
      };
      next();
    });
  }

  // A call in the thread pool waits for two threads to be scheduled: milliseconds on a busy machine.
  readNow(target: Uint8Array, position: number): boolean {
    const startMs = performance.now();
    if (startMs < this.#deviceUntilMs) return false;
    let done = 0;
    while (done < target.length) {
      const bytes = this.#readNow(target.subarray(done), position + done);
      if (bytes === 0) throw endError(target.length - done, position + done);
      done += bytes;
    }
    const endMs = performance.now();
    if (endMs - startMs >= MIN_DEVICE_MS) this.#deviceUntilMs = endMs + DEVICE_PAUSE_MS;
    return true;
  }

  readSome(target: Uint8Array, position: number): number | Promise<number> {
    if (this.#sinceTurn < TURN_BYTES) return this.#readNow(target, position);
    this.#sinceTurn = 0;
    return new Promise<void>((resolve) => setImmediate(resolve)).then(() =>
      this.#readNow(target, position),
    );
  }

  // One call in the thread pool takes longer than copying these bytes out of the page cache.
  #readNow(target: Uint8Array, position: number): number {
    if (this.#isClosed) throw closedError();
    const bytes = readSync(this.#fd, target, 0, target.length, this.#base + position);
    this.#sinceTurn += bytes;
    return bytes;
  }

  checkUnchanged(): void {
    if (this.#isClosed) throw closedError();
    const stats = fstatSync(this.#fd);
    // A device keeps its size, and the system does not note every write to it.
    if (stats.isBlockDevice()) return;
    const { size, mtimeMs } = stats;
    if (size - this.#base === this.size && mtimeMs === this.#modifiedMs) return;
    const what = size - this.#base < this.size ? 'truncated' : 'written to';
    const reason = `the file of the saved guest was ${what} while it was open`;
    throw new QemuFileError('EIO', reason, { operation: 'read' });
  }

  async close(): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true;
      if (this.#running > 0) {
        await new Promise<void>((resolve) => {
          this.#onIdle = resolve;
        });
      }
    }
    await this.#file.close();
  }
}

/** Positioned reads through a `QemuFile`, one at a time: a snapshot of an image, for example. */
class FileReads implements PositionedReads {
  readonly size: number;
  readonly #file: QemuFile;
  readonly #base: number;
  #last: Promise<unknown> = Promise.resolve();

  constructor(file: QemuFile, end: number, base: number) {
    this.#file = file;
    this.#base = base;
    this.size = end - base;
  }

  async read(target: Uint8Array, position: number): Promise<void> {
    // A read past the end would fail the file for good.
    if (position + target.length > this.size) {
      throw endError(position + target.length - this.size, this.size);
    }
    await this.#inTurn(target, position);
  }

  readNow(): boolean {
    return false;
  }

  async readSome(target: Uint8Array, position: number): Promise<number> {
    const length = Math.min(target.length, this.size - position);
    if (length <= 0) return 0;
    return this.#inTurn(target.subarray(0, length), position);
  }

  #inTurn(target: Uint8Array, position: number): Promise<number> {
    const reading = this.#last.then(() => this.#file.getBufferAt(target, this.#base + position));
    this.#last = reading.catch(() => 0);
    return reading;
  }

  checkUnchanged(): void {}

  async close(): Promise<void> {
    await this.#last;
    await this.#file.close();
  }
}

function endError(missing: number, position: number): QemuFileError {
  const reason = `the file of the saved guest ends ${missing} bytes too early`;
  return new QemuFileError('EIO', reason, { operation: 'read', position });
}

function closedError(): QemuFileError {
  return new QemuFileError('EBADF', 'the saved guest is closed', { operation: 'read' });
}
