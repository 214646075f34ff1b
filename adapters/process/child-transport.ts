import type { ChildProcess } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { abortError, QemuFileError } from '../../lib/contract/errors.ts';
import type { Direction, MaybePromise, QemuFileSizes } from '../../lib/contract/ops.ts';
import { onAbort } from '../../lib/contract/wait-for.ts';
import { noop } from '../../lib/util/noop.ts';
import type { Transport } from '../shared/shared-transport.ts';
import { PIPE_SIZES } from '../shared/sizes.ts';
import { destroyStream } from '../stream/destroy-stream.ts';
import { StreamReader } from '../stream/stream-reader.ts';
import { StreamWriter } from '../stream/stream-writer.ts';
import { ChildExit } from './child-exit.ts';

/** Default time from SIGTERM to SIGKILL, in milliseconds. */
const DEFAULT_GRACE_MS = 2000;

const END = new Uint8Array(0);

/**
 * A child process in use. Its streams alone do not show whether its output is complete or why its input broke:
 * a stream fails before the exit status is known, so the end of a direction waits for the end of the child.
 */
export class ChildTransport implements Transport {
  readonly sizes: Partial<QemuFileSizes> = PIPE_SIZES;
  readonly #child: ChildExit;
  readonly #stdin: Writable | undefined;
  readonly #stdout: Readable | undefined;
  readonly #reader: StreamReader | undefined;
  readonly #writer: StreamWriter | undefined;
  readonly #isTwoWay: boolean;
  readonly #graceMs: number;
  readonly #signal: AbortSignal | undefined;
  readonly #stopFollowingSignal: () => void;
  /** Resolvers of the waits for the end of the child. */
  readonly #waits = new Set<() => void>();
  /** Why a direction was ended by the caller. */
  #readStop: QemuFileError | undefined;
  #writeStop: QemuFileError | undefined;
  #writeError: QemuFileError | undefined;
  #abortError: QemuFileError | undefined;
  #stdinEnd: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  /**
   * @param child - The child.
   * @param direction - `read` uses its standard output, `write` its standard input.
   * @param isGroup - True if the child leads a process group, which is ended with it.
   * @param options - `signal`, `graceMs`.
   */
  constructor(
    child: ChildProcess,
    direction: Direction | 'both',
    isGroup: boolean,
    options: { signal?: AbortSignal | undefined; graceMs?: number | undefined },
  ) {
    this.#graceMs = options.graceMs ?? DEFAULT_GRACE_MS;
    this.#signal = options.signal;
    this.#isTwoWay = direction === 'both';
    this.#child = new ChildExit(child, isGroup, this.#graceMs);
    // When the system is out of descriptors, Node creates no streams even though they were requested.
    if (direction !== 'read') this.#stdin = child.stdin ?? undefined;
    if (direction !== 'write') this.#stdout = child.stdout ?? undefined;
    if (this.#stdin !== undefined) this.#writer = new StreamWriter(this.#stdin);
    if (this.#stdout !== undefined) this.#reader = new StreamReader(this.#stdout, 'EIO');
    // These listeners stay until the streams have closed, so that a late error cannot end the process.
    this.#stdin?.on('error', noop);
    this.#stdout?.on('error', noop);
    this.#stopFollowingSignal = onAbort(this.#signal, () => this.#abort());
  }

  getFd(): number {
    return -1;
  }

  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    if (this.#readStop !== undefined) throw this.#readStop;
    if (this.#reader === undefined) return this.#failMissing('getBuffer', position);
    let result: MaybePromise<number | Uint8Array>;
    try {
      result = this.#reader.read(position, buffer);
    } catch (error) {
      return this.#failRead(error, position);
    }
    if (typeof result === 'number') return result;
    if (result instanceof Uint8Array) return result.length > 0 ? result : this.#atEnd(position);
    return result.then(
      (chunk) => (typeof chunk === 'number' || chunk.length > 0 ? chunk : this.#atEnd(position)),
      (error: unknown) => this.#failRead(error, position),
    );
  }

  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    if (this.#writeStop !== undefined) throw this.#writeStop;
    if (this.#writer === undefined) return this.#failMissing('writevBuffer', position);
    try {
      const result = this.#writer.writev(buffers, position);
      if (typeof result === 'number') return result;
      return result.then(undefined, (error: unknown) => this.#failWrite(error, position));
    } catch (error) {
      return this.#failWrite(error, position);
    }
  }

  cancelRead(error: QemuFileError): void {
    this.#reader?.cancel(error);
  }

  async shutDown(read: boolean, write: boolean): Promise<void> {
    const stopped = new QemuFileError('ECANCELED', 'the command was shut down', {
      operation: 'shutDown',
    });
    if (read) this.#stopReading(stopped);
    if (write && this.#hasPendingBatch) {
      this.#stopWriting(stopped);
      // The input must not end here: the command would take a truncated stream for a complete one.
      void this.#child.force();
    } else if (write) {
      this.#writeStop ??= stopped;
      await this.#endStdin();
    }
    if (read && this.#stdout !== undefined) await destroyStream(this.#stdout);
  }

  close(error?: Error): Promise<void> {
    this.#closing ??= this.#close(error);
    return this.#closing;
  }

  async #close(error?: Error): Promise<void> {
    const failure = error === undefined ? await this.#endInOrder() : await this.#forceEnd();
    this.#stopFollowingSignal();
    this.#reader?.close();
    this.#writer?.close();
    await this.#child.release();
    for (const stream of [this.#stdin, this.#stdout]) {
      if (stream === undefined) continue;
      await destroyStream(stream);
      stream.off('error', noop);
    }
    if (failure !== undefined) throw failure;
  }

  async #endInOrder(): Promise<QemuFileError | undefined> {
    if (this.#hasPendingBatch) {
      await this.#forceEnd();
      return new QemuFileError('ECANCELED', 'closed before the last batch was written', {
        operation: 'close',
      });
    }
    if (this.#stdin !== undefined) {
      this.#stopReading(closedError());
      this.#stdout?.resume();
      // A command may exit without reading all of its input; its status reports whether that is an error.
      await this.#endStdin().catch(noop);
      this.#writeStop ??= closedError();
    } else {
      if (this.#reader?.ended === false) await this.#forceEnd();
      this.#readStop ??= closedError();
    }
    await this.#child.ended;
    return this.#abortError ?? this.#writeError ?? this.#child.failure?.('close', undefined);
  }

  /** End both directions, then the command. */
  async #forceEnd(): Promise<undefined> {
    this.#stopReading(closedError());
    this.#stopWriting(closedError());
    await this.#child.force();
  }

  /** True while a batch is pending that an end of the input would cut off. */
  get #hasPendingBatch(): boolean {
    return this.#writer?.pending === true && this.#stdinEnd === undefined;
  }

  #endStdin(): Promise<void> {
    this.#stdinEnd ??= this.#writer?.end() ?? Promise.resolve();
    return this.#stdinEnd;
  }

  #stopReading(reason: QemuFileError): void {
    this.#readStop ??= reason;
    this.#reader?.close(reason);
    this.#endWaits();
  }

  #stopWriting(reason: QemuFileError): void {
    this.#writeStop ??= reason;
    this.#writer?.close(reason);
    this.#endWaits();
  }

  #abort(): void {
    this.#abortError = abortError(this.#signal as AbortSignal, 'exec');
    this.#stopReading(this.#abortError);
    this.#stopWriting(this.#abortError);
    void this.#child.force();
  }

  /** The end of the output. Unless the transport is two-way, wait for the exit status, which can make it an error. */
  async #atEnd(position: number): Promise<Uint8Array> {
    if (this.#isTwoWay && this.#child.hasStarted) return END;
    await this.#waitForEnd();
    if (this.#readStop !== undefined) throw this.#readStop;
    const failure = this.#child.failure;
    if (failure !== undefined) throw failure('getBuffer', position);
    return END;
  }

  async #failRead(error: unknown, position: number): Promise<never> {
    await this.#waitForCause(error, () => this.#readStop);
    throw this.#child.failure?.('getBuffer', position) ?? error;
  }

  async #failWrite(error: unknown, position: number): Promise<never> {
    await this.#waitForCause(error, () => this.#writeStop);
    this.#writeError = this.#writeErrorOf(error as QemuFileError, position);
    throw this.#writeError;
  }

  #writeErrorOf(error: QemuFileError, position: number): QemuFileError {
    const operation = 'writevBuffer';
    const startFailure = this.#child.startFailure;
    if (startFailure !== undefined) return startFailure(operation, position);
    if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') return error;
    const reason = this.#child.hasEnded ? this.#child.describe() : 'the command stopped reading';
    return new QemuFileError('EPIPE', reason, { operation, position, cause: error.cause ?? error });
  }

  /** Fail an operation on a stream that does not exist, because the command could not be started. */
  async #failMissing(operation: string, position: number): Promise<never> {
    await this.#waitForEnd();
    throw (
      this.#child.failure?.(operation, position) ??
      new QemuFileError('EIO', 'the command has no such stream', { operation, position })
    );
  }

  /** Wait for the child's status, which explains the error of a stream and arrives a little after it. */
  async #waitForCause(error: unknown, stop: () => QemuFileError | undefined): Promise<void> {
    if (stop() !== undefined || (error as QemuFileError).code === 'EBUSY') throw error;
    await this.#waitForEnd(this.#graceMs);
    const reason = stop();
    if (reason !== undefined) throw reason;
  }

  /** Wait for the end of the child, a timeout, or `#endWaits()`. */
  async #waitForEnd(timeoutMs?: number): Promise<void> {
    if (this.#child.hasEnded) return;
    let timer: NodeJS.Timeout | undefined;
    let endWait = noop;
    const ended = new Promise<void>((resolve) => {
      endWait = resolve;
      this.#waits.add(resolve);
      if (timeoutMs !== undefined) timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([ended, this.#child.ended]);
    clearTimeout(timer);
    this.#waits.delete(endWait);
  }

  #endWaits(): void {
    for (const endWait of this.#waits) endWait();
  }
}

function closedError(): QemuFileError {
  return new QemuFileError('EBADF', 'the command is closed', { operation: 'close' });
}
