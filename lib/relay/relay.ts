import { abortError, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import { onAbort } from '../contract/wait-for.ts';
import { checkFile } from '../qemu-file/check-file.ts';
import type { QemuFile } from '../qemu-file/qemu-file.ts';
import { Digest, loadDigest } from '../util/digest.ts';
import { noop } from '../util/noop.ts';
import { CheckTap } from './check-tap.ts';
import type { RelayEnd, RelayFailure, RelayOptions, RelayResult } from './relay-types.ts';
import { Transfer } from './transfer.ts';

/*
 *            forward                          When one direction reaches its end, the file at its other end
 *   from ───────────────┬──► to               is half-closed, and the other direction goes on.
 *     ▲                 └──► tee
 *     └──────────────────── to                There is a return path if `from` can be written and `to` can
 *            return                           be read.
 *
 * If `to` can be read and `from` cannot be written, the bytes that `to` sends are read and dropped: only a
 * read notices that `to` fails, and closing a socket with unread bytes cuts off what it still sends.
 */

const LINGER_MS = 5000;

/**
 * Move a migration from one file to another, the return path included, until both sides are done; then
 * close all files. Bytes are moved by reference, and no faster than the slowest file takes them.
 *
 * The end of `from` ends `to`, and the end of `to` ends the return path to `from`. If one file fails, or
 * `from` ends without a byte, the others are destroyed with an error: the QEMU at the other end sees its
 * migration fail, and a file that is being written does not appear under its name. A return path that `from`
 * no longer takes is a failure, but does not cut off a `to` that has all bytes.
 *
 * A QEMU that saves with its capability `return-path` on waits at the end, its guest stopped, for an
 * answer. A `to` that cannot be read sends none, so turn the capability off for it.
 *
 * @param from - A file that can be read. Its unread bytes are moved as well. The relay owns all files from now
 *   on.
 * @param to - A file that can be written. Its `maxBandwidth` and its `digest` apply to the relay.
 * @param options - `tee`, `check`, `signal`, `lingerMs`, `onReturned`, `mayBeEmpty`.
 * @returns The outcome, once all files are closed. File failures are reported in it, not thrown.
 * @throws {QemuFileError} (rejects) `EBADF` if a file cannot be read or written as its place requires.
 *
 * @example
 * ```js
 * const from = await openFrom('unix:/run/from.sock');
 * const to = await openTo('tcp:otherhost:4444', { file: { maxBandwidth: 100 * 2 ** 20 } });
 * const { forward, failure } = await relay(from, to);
 * if (failure) console.error(failure.end, failure.error.message);
 * else console.log(`${forward.bytes} bytes`);
 * ```
 */
export async function relay(
  from: QemuFile,
  to: QemuFile,
  options: RelayOptions = {},
): Promise<RelayResult> {
  const usable = (file: QemuFile, can: boolean): boolean => can || file.error !== null;
  const { tee } = options;
  checkFile('relay', 'from', from);
  checkFile('relay', 'to', to);
  if (tee !== undefined) checkFile('relay', 'tee', tee);
  if (!usable(from, from.readable)) throw wrongWay('from', 'read');
  if (!usable(to, to.isWritable())) throw wrongWay('to', 'written');
  if (tee !== undefined && !usable(tee, tee.isWritable())) throw wrongWay('tee', 'written');
  return new Relay(from, to, options).run();
}

function wrongWay(end: RelayEnd, verb: string): QemuFileError {
  return new QemuFileError('EBADF', `"${end}" cannot be ${verb}`, { operation: 'relay' });
}

/** End the put half, and wait until the backend knows. */
function endPuts(file: QemuFile): Promise<void> {
  return new Promise((resolve, reject) => {
    file.end((error?: Error | null) => {
      if (error) reject(file.error ?? error);
      else resolve();
    });
  });
}

/** An event that happens at most once. */
class Once {
  readonly happened: Promise<void>;
  happen: () => void = noop;

  constructor() {
    this.happened = new Promise((resolve) => {
      this.happen = resolve;
    });
  }
}

/** The bytes of the return path that `from` took. */
interface Returned {
  bytes: number;
  digest: Digest | null;
}

class Relay {
  readonly #from: QemuFile;
  readonly #to: QemuFile;
  readonly #options: RelayOptions;
  readonly #tap: CheckTap | undefined;
  readonly #startedAt = performance.now();
  readonly #forwardStart: number;
  /** Null if there is no return path. */
  readonly #returned: Returned | null;
  /** `forwarded`: `to` has all bytes and the end; `closing`: files close because the relay closes them. */
  #phase: 'forwarding' | 'forwarded' | 'closing' = 'forwarding';
  /** Moves what `to` sends; null if `to` cannot be read. */
  #backward: Transfer | null = null;
  #failure: RelayFailure | null = null;
  readonly #failed = new Once();
  readonly #lingered = new Once();
  #lingerTimer: NodeJS.Timeout | undefined;

  constructor(from: QemuFile, to: QemuFile, options: RelayOptions) {
    this.#from = from;
    this.#to = to;
    this.#options = options;
    if (options.check !== undefined) this.#tap = new CheckTap(options.check);
    this.#forwardStart = to.sentPosition;
    this.#returned = to.readable && from.isWritable() ? { bytes: 0, digest: null } : null;
  }

  async run(): Promise<RelayResult> {
    const from = this.#from;
    const to = this.#to;
    const { tee, signal } = this.#options;
    const hasInput = to.readable;
    const abort = (): void => this.#fail(null, abortError(signal as AbortSignal, 'relay'));
    const stopFollowing = onAbort(signal, abort);
    if (signal?.aborted) abort();
    this.#watch('from', from, () => from.readableEnded);
    this.#watch('to', to, () => to.writableFinished && (!hasInput || to.readableEnded));
    if (tee !== undefined) this.#watch('tee', tee, () => tee.writableFinished);
    this.#tap?.done.catch((error: unknown) => this.#fail('from', toQemuFileError(error)));
    try {
      if (this.#failure === null) await Promise.race([this.#failed.happened, this.#move()]);
    } catch (error) {
      // A failure of a file is known already; anything else is a defect.
      if (this.#failure === null) throw error;
    } finally {
      stopFollowing();
      await this.#closeAll();
      // Clear this last: a file that fails while closing may start the timer again.
      clearTimeout(this.#lingerTimer);
    }
    return this.#result();
  }

  async #move(): Promise<void> {
    if (this.#to.putDigest !== null) {
      await loadDigest();
      if (this.#returned !== null) this.#returned.digest = new Digest();
    }
    const backward = this.#moveBackward();
    await this.#moveForward();
    if (this.#returned === null) this.#linger();
    await Promise.race([backward, this.#lingered.happened]);
    this.#phase = 'closing';
    await this.#attempt('to', this.#to.close());
    await this.#attempt('from', this.#from.close());
  }

  async #moveForward(): Promise<void> {
    const from = this.#from;
    const to = this.#to;
    const { tee, mayBeEmpty } = this.#options;
    const tap = this.#tap;
    const sinks = [to, tee, tap?.file].filter((sink) => sink !== undefined);
    await new Transfer(from, sinks).ended;
    await this.#attempt('to', to.flush());
    if (tee !== undefined) await this.#attempt('tee', tee.flush());
    // Closing may show that the stream is not whole, for example by the exit status of a command.
    if (!from.isWritable()) await this.#attempt('from', from.close());
    if (to.sentPosition === this.#forwardStart && mayBeEmpty !== true) {
      const empty = new QemuFileError('ENODATA', 'it ended before its first byte', {
        operation: 'relay',
      });
      await this.#attempt('from', Promise.reject(empty));
    }
    if (tap !== undefined) {
      // The check may accept nothing less than a whole stream.
      await tap.file.close();
      await this.#attempt('from', tap.done);
    }
    if (tee !== undefined) await this.#attempt('tee', tee.close());
    await this.#attempt('to', endPuts(to));
    this.#phase = 'forwarded';
  }

  /** Move, or drop, what `to` sends; resolves when `to` has ended, never rejects. */
  async #moveBackward(): Promise<void> {
    if (!this.#to.readable) return;
    const returned = this.#returned;
    if (returned === null) {
      this.#backward = new Transfer(this.#to, []);
      return this.#backward.ended;
    }
    const { onReturned } = this.#options;
    this.#backward = new Transfer(this.#to, [this.#from], (chunk) => {
      returned.bytes += chunk.length;
      returned.digest?.update(chunk);
      // The caller may keep it.
      onReturned?.(Buffer.from(chunk));
    });
    await this.#backward.ended;
    await this.#attempt('from', endPuts(this.#from)).catch(noop);
  }

  #linger(): void {
    const { lingerMs = LINGER_MS } = this.#options;
    this.#lingerTimer ??= setTimeout(this.#lingered.happen, lingerMs);
  }

  #watch(end: RelayEnd, file: QemuFile, isDone: () => boolean): void {
    const onError = (error: unknown): void => this.#fail(end, file.error ?? toQemuFileError(error));
    const onClose = (): void => {
      if (file.error !== null) onError(file.error);
      else if (!isDone() && this.#phase !== 'closing') onError(closedTooEarly());
    };
    file.once('error', onError);
    file.once('close', onClose);
    if (file.destroyed) onClose();
  }

  async #attempt(end: RelayEnd, work: Promise<unknown>): Promise<void> {
    try {
      await work;
    } catch (error) {
      this.#fail(end, toQemuFileError(error));
      throw error;
    }
  }

  #fail(end: RelayEnd | null, error: QemuFileError): void {
    this.#failure ??= { end, error };
    if (end !== 'from' || this.#phase === 'forwarding') {
      this.#failed.happen();
      return;
    }
    // `to` has all bytes and must not be cut off while it loads them: only the return path is lost.
    if (this.#returned === null) return;
    this.#backward?.drop();
    this.#linger();
  }

  /** Close the files that are open, in such a way that no peer takes a failure for an end. */
  async #closeAll(): Promise<void> {
    this.#phase = 'closing';
    const { tee } = this.#options;
    const files = [this.#from, this.#to, tee, this.#tap?.file].filter((file) => file !== undefined);
    const failure = this.#failure;
    for (const file of files) {
      if (failure === null || file.destroyed) continue;
      const { end, error } = failure;
      file.destroy(end === null ? error : brokenOff(end, error));
    }
    await Promise.allSettled(files.map((file) => file.close()));
  }

  #result(): RelayResult {
    const to = this.#to;
    const returned = this.#returned;
    const xxh64 = returned?.digest?.hex() ?? null;
    return {
      complete: this.#failure === null,
      forward: { bytes: to.sentPosition - this.#forwardStart, xxh64: to.putDigest },
      return: returned === null ? null : { bytes: returned.bytes, xxh64 },
      seconds: (performance.now() - this.#startedAt) / 1000,
      limitedSeconds: to.limitedMs / 1000,
      failure: this.#failure,
    };
  }
}

function closedTooEarly(): QemuFileError {
  return new QemuFileError('ECANCELED', 'it was closed too early', { operation: 'relay' });
}

function brokenOff(end: RelayEnd, cause: QemuFileError): QemuFileError {
  const reason = `the relay broke off, because its "${end}" failed: ${cause.message}`;
  return new QemuFileError('ECANCELED', reason, { operation: 'relay', cause });
}
