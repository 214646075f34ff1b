import { abortError, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { QemuFile } from '../qemu-file/qemu-file.ts';
import { Digest, loadDigest } from '../util/digest.ts';
import { noop } from '../util/noop.ts';
import { CheckTap, type RelayCheck } from './check-tap.ts';
import { pump } from './pipe-chunks.ts';
import { transfer } from './transfer.ts';

/*
 *            forward                          A direction that reached its end is ended at the other
 *   from ───────────────┬──► to               file too (half-close), and the other one goes on.
 *     ▲                 └──► tee
 *     └──────────────────── to                The return path is there if `from` can be written and
 *            return                           `to` can be read.
 *
 * If `to` can be read and `from` cannot be written, what comes back is dropped: it must be read all
 * the same, to see `to` fail, and because closing a socket with unread bytes cuts off what it still sends.
 */

/** How `relay` works. */
export interface RelayOptions {
  /** Gets a copy of the forward bytes; the slower of it and `to` sets the pace. */
  tee?: QemuFile | undefined;
  /**
   * Reads along with the forward bytes, and must accept them before `to` is ended: what it rejects with is
   * taken for a failure of `from`, at once. When it has resolved early it gets no more.
   */
  check?: RelayCheck | undefined;
  /** Ends the relay: all files are destroyed with `ECANCELED`, so that none takes it for an end. */
  signal?: AbortSignal | undefined;
  /**
   * Milliseconds that `to`, after the end of the forward direction, may go on sending what nobody can be
   * given. Default 5000. A return path is waited for without limit.
   */
  lingerMs?: number | undefined;
  /** Gets each chunk of the return path that `from` has taken. */
  onReturned?: ((chunk: Uint8Array) => void) | undefined;
  /** Whether a `from` may end without one byte. Default false. */
  mayBeEmpty?: boolean | undefined;
}

/** One of the files of a relay. */
export type RelayEnd = 'from' | 'to' | 'tee';

/** What one direction moved. */
export interface RelayDirection {
  /** Bytes that the file which they went to has taken. */
  bytes: number;
  /** XXH64 of these, as 16 hexadecimal digits; null unless `to` was made with `digest`. */
  xxh64: string | null;
}

/** Why a relay is not complete. */
export interface RelayFailure {
  /** The file that failed first; null if it was the relay's own signal. */
  end: RelayEnd | null;
  /** What happened to it. `ENODATA`: `from` ended before its first byte. */
  error: QemuFileError;
}

/** What came of a relay. */
export interface RelayResult {
  /** Whether both directions reached their ends and everything was taken. */
  complete: boolean;
  /** From `from` to `to`. */
  forward: RelayDirection;
  /** From `to` to `from`; null where there is no return path. */
  return: RelayDirection | null;
  /** How long it took. */
  seconds: number;
  /** How long of that bytes waited for the `maxBandwidth` of `to` alone. */
  limitedSeconds: number;
  /** Null if it is complete. */
  failure: RelayFailure | null;
}

const LINGER_MS = 5000;

/**
 * Moves a migration from one file to another, the return path included, until both sides are done; then
 * closes all files. Bytes are handed on by reference, and no faster than the slower side takes them.
 *
 * The end of `from` ends `to`, and the end of `to` ends the return path of `from`. If one file fails,
 * the others are destroyed with an error: a QEMU at the other end sees its migration fail, and a file
 * that is being written does not appear under its name. So does a `from` that ends without one byte.
 * A return path that `from` no longer takes is a failure, but spares a `to` that has got everything.
 *
 * A QEMU that saves with its capability `return-path` on waits at the end, its guest stopped, for an
 * answer. A `to` that cannot be read has none, so turn the capability off for those.
 *
 * @param from - A file that can be read: what was not consumed yet is moved. It and the others are the
 *   relay's from now on.
 * @param to - A file that can be written. Its `maxBandwidth` is the relay's, and so is its `digest`.
 * @param options - `tee`, `check`, `signal`, `lingerMs`, `onReturned`, `mayBeEmpty`.
 * @returns What came of it, once all files are closed; a failure of a file is in there, not thrown.
 * @throws {QemuFileError} (rejects) `EBADF` if a file is not of the direction that it is given for.
 *
 * @example
 * ```js
 * const from = await openFrom('unix:/run/source.sock');
 * const to = await openTo('tcp:otherhost:4444', { file: { maxBandwidth: 100 * 2 ** 20 } });
 * const { complete, failure } = await relay(from, to);
 * if (!complete) console.error(failure.end, failure.error.message);
 * ```
 */
export async function relay(
  from: QemuFile,
  to: QemuFile,
  options: RelayOptions = {},
): Promise<RelayResult> {
  const usable = (file: QemuFile, can: boolean): boolean => can || file.error !== null;
  const { tee } = options;
  if (!usable(from, from.readable)) throw wrongWay('from', 'read');
  if (!usable(to, to.isWritable())) throw wrongWay('to', 'written');
  if (tee !== undefined && !usable(tee, tee.isWritable())) throw wrongWay('tee', 'written');
  return new Relay(from, to, options).run();
}

function wrongWay(end: RelayEnd, verb: string): QemuFileError {
  return new QemuFileError('EBADF', `"${end}" cannot be ${verb}`, { operation: 'relay' });
}

/** Bytes that a file's backend has taken. */
function takenBy(file: QemuFile): number {
  return file.putPosition - file.writableLength;
}

/** Ends the put half, and waits until the backend knows. */
function endPuts(file: QemuFile): Promise<void> {
  return new Promise((resolve, reject) => {
    file.end((error?: Error | null) => {
      if (error) reject(file.error ?? error);
      else resolve();
    });
  });
}

class Relay {
  readonly #from: QemuFile;
  readonly #to: QemuFile;
  readonly #tee: QemuFile | undefined;
  readonly #onlooker: CheckTap | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #lingerMs: number;
  readonly #onReturned: ((chunk: Uint8Array) => void) | undefined;
  readonly #mayBeEmpty: boolean;
  readonly #startedAt = performance.now();
  readonly #forwardStart: number;
  /** Whether `to` can be read, and whether what it sends goes to `from`. */
  readonly #hears: boolean;
  readonly #returns: boolean;
  #returned = 0;
  #returnDigest: Digest | null = null;
  #failure: RelayFailure | null = null;
  /** `to` has got everything, and knows. */
  #forwarded = false;
  /** Files close because the relay closes them. */
  #closing = false;
  #loseReturn: () => void = noop;
  #lingerTimer: NodeJS.Timeout | undefined;
  #markLingered: () => void = noop;
  readonly #lingered: Promise<void>;
  #markFailed: () => void = noop;
  readonly #failed: Promise<void>;

  constructor(from: QemuFile, to: QemuFile, options: RelayOptions) {
    this.#from = from;
    this.#to = to;
    this.#tee = options.tee;
    if (options.check !== undefined) this.#onlooker = new CheckTap(options.check);
    this.#signal = options.signal;
    this.#lingerMs = options.lingerMs ?? LINGER_MS;
    this.#onReturned = options.onReturned;
    this.#mayBeEmpty = options.mayBeEmpty === true;
    this.#forwardStart = takenBy(to);
    this.#hears = to.readable;
    this.#returns = to.readable && from.isWritable();
    this.#lingered = new Promise((resolve) => {
      this.#markLingered = resolve;
    });
    this.#failed = new Promise((resolve) => {
      this.#markFailed = resolve;
    });
  }

  async run(): Promise<RelayResult> {
    const from = this.#from;
    const to = this.#to;
    const tee = this.#tee;
    const onAbort = (): void => this.#fail(null, abortError(this.#signal as AbortSignal, 'relay'));
    this.#signal?.addEventListener('abort', onAbort);
    if (this.#signal?.aborted) onAbort();
    this.#watch('from', from, () => from.readableEnded);
    this.#watch('to', to, () => to.writableFinished && (!this.#hears || to.readableEnded));
    if (tee !== undefined) this.#watch('tee', tee, () => tee.writableFinished);
    this.#onlooker?.done.catch((error: unknown) => this.#fail('from', toQemuFileError(error)));
    try {
      if (this.#failure === null) await Promise.race([this.#failed, this.#move()]);
    } catch (error) {
      // What failed is known already, unless it is this code.
      if (this.#failure === null) throw error;
    } finally {
      this.#signal?.removeEventListener('abort', onAbort);
      await this.#closeAll();
      // Last, for a file that fails as it closes may have it wait anew.
      clearTimeout(this.#lingerTimer);
    }
    return this.#result();
  }

  async #move(): Promise<void> {
    if (this.#to.putDigest !== null) {
      await loadDigest();
      this.#returnDigest = new Digest();
    }
    const back = this.#back();
    await this.#forward();
    if (!this.#returns) this.#linger();
    await Promise.race([back, this.#lingered]);
    this.#closing = true;
    await this.#attempt('to', this.#to.close());
    await this.#attempt('from', this.#from.close());
  }

  async #forward(): Promise<void> {
    const from = this.#from;
    const to = this.#to;
    const tee = this.#tee;
    const onlooker = this.#onlooker;
    const sinks = [to, tee, onlooker?.file].filter((sink) => sink !== undefined);
    await transfer(from, sinks);
    await this.#attempt('to', to.flush());
    if (tee !== undefined) await this.#attempt('tee', tee.flush());
    // Closing may tell that the end was none, such as by the exit status of a command.
    if (!from.isWritable()) await this.#attempt('from', from.close());
    if (takenBy(to) === this.#forwardStart && !this.#mayBeEmpty) {
      const empty = new QemuFileError('ENODATA', 'it ended before its first byte', {
        operation: 'relay',
      });
      await this.#attempt('from', Promise.reject(empty));
    }
    if (onlooker !== undefined) {
      // It may be that only a whole stream can be judged.
      await onlooker.file.close();
      await this.#attempt('from', onlooker.done);
    }
    if (tee !== undefined) await this.#attempt('tee', tee.close());
    await this.#attempt('to', endPuts(to));
    this.#forwarded = true;
  }

  /** The way back; resolves when it has ended, never rejects. */
  async #back(): Promise<void> {
    if (!this.#hears) return;
    if (!this.#returns) {
      const dropped = pump(this.#to, []);
      dropped.drop();
      return dropped.ended;
    }
    const returned = pump(this.#to, [this.#from], (chunk) => {
      this.#returned += chunk.length;
      this.#onReturned?.(chunk);
      this.#returnDigest?.update(chunk);
    });
    this.#loseReturn = () => {
      returned.drop();
      this.#linger();
    };
    await returned.ended;
    await this.#attempt('from', endPuts(this.#from)).catch(noop);
  }

  #linger(): void {
    this.#lingerTimer ??= setTimeout(this.#markLingered, this.#lingerMs);
  }

  #watch(end: RelayEnd, file: QemuFile, isDone: () => boolean): void {
    const onError = (error: unknown): void => this.#fail(end, file.error ?? toQemuFileError(error));
    const onClose = (): void => {
      if (file.error !== null) onError(file.error);
      else if (!isDone() && !this.#closing) onError(closedTooEarly());
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
    // What has everything must not be cut off while it works on it.
    if (end === 'from' && this.#forwarded) this.#loseReturn();
    else this.#markFailed();
  }

  /** Closes what is not closed yet, in such a way that nobody takes a failure for an end. */
  async #closeAll(): Promise<void> {
    this.#closing = true;
    const files = [this.#from, this.#to];
    if (this.#tee !== undefined) files.push(this.#tee);
    if (this.#onlooker !== undefined) files.push(this.#onlooker.file);
    const failure = this.#failure;
    for (const file of files) {
      if (failure === null || file.destroyed) continue;
      const { end, error } = failure;
      if (end === null) file.destroy(error);
      else file.destroy(brokenOff(end, error));
    }
    await Promise.allSettled(files.map((file) => file.close()));
  }

  #result(): RelayResult {
    const xxh64 = this.#returnDigest?.hex() ?? null;
    return {
      complete: this.#failure === null,
      forward: { bytes: takenBy(this.#to) - this.#forwardStart, xxh64: this.#to.putDigest },
      return: this.#returns ? { bytes: this.#returned, xxh64 } : null,
      seconds: (performance.now() - this.#startedAt) / 1000,
      limitedSeconds: this.#to.limitedMs / 1000,
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
