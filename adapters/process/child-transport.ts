import type { ChildProcess } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { abortError, QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileSizes } from '../../lib/contract/ops.ts';
import { noop } from '../../lib/util/noop.ts';
import type { Transport } from '../shared/shared-transport.ts';
import { PIPE_SIZES } from '../shared/sizes.ts';
import { destroyStream, StreamReader, StreamWriter } from '../stream/destroy-stream.ts';
import { ChildExit } from './child-exit.ts';

/** Milliseconds from SIGTERM to SIGKILL, unless the options say otherwise. */
const GRACE_MS = 2000;

const END = new Uint8Array(0);

/** Which of a child's streams are used: `read` its standard output, `write` its standard input. */
export type ChildDirection = 'read' | 'write' | 'both';

/** A child process in use: its streams, and how it ended, which decides what an end or an error means. */
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
  readonly #waiting = new Set<() => void>();
  /** Why a direction was ended by its user. */
  #readStop: QemuFileError | undefined;
  #writeStop: QemuFileError | undefined;
  #writeError: QemuFileError | undefined;
  #aborted: QemuFileError | undefined;
  #stdinEnd: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  constructor(
    child: ChildProcess,
    direction: ChildDirection,
    isGroup: boolean,
    options: { signal?: AbortSignal | undefined; graceMs?: number | undefined },
  ) {
    this.#graceMs = options.graceMs ?? GRACE_MS;
    this.#signal = options.signal;
    this.#isTwoWay = direction === 'both';
    this.#child = new ChildExit(child, isGroup, this.#graceMs);
    // Where the system had no descriptors left Node makes no streams, whatever was asked for.
    if (direction !== 'read') this.#stdin = child.stdin ?? undefined;
    if (direction !== 'write') this.#stdout = child.stdout ?? undefined;
    if (this.#stdin !== undefined) this.#writer = new StreamWriter(this.#stdin);
    if (this.#stdout !== undefined) this.#reader = new StreamReader(this.#stdout, 'EIO');
    // Stay until the streams have closed, so that a late error cannot end the process.
    this.#stdin?.on('error', noop);
    this.#stdout?.on('error', noop);
    this.#signal?.addEventListener('abort', this.#onAbort);
  }

  getFd(): number {
    return -1;
  }

  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    if (this.#readStop !== undefined) throw this.#readStop;
    if (this.#reader === undefined) return this.#missing('getBuffer', position);
    let answer: MaybePromise<number | Uint8Array>;
    try {
      answer = this.#reader.read(position, buffer);
    } catch (error) {
      return this.#readFailed(error, position);
    }
    if (typeof answer === 'number') return answer;
    if (answer instanceof Uint8Array) return answer.length > 0 ? answer : this.#atEnd(position);
    return answer.then(
      (chunk) => (typeof chunk === 'number' || chunk.length > 0 ? chunk : this.#atEnd(position)),
      (error: unknown) => this.#readFailed(error, position),
    );
  }

  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    if (this.#writeStop !== undefined) throw this.#writeStop;
    if (this.#writer === undefined) return this.#missing('writevBuffer', position);
    try {
      const answer = this.#writer.writev(buffers, position);
      if (typeof answer === 'number') return answer;
      return answer.then(undefined, (error: unknown) => this.#writeFailed(error, position));
    } catch (error) {
      return this.#writeFailed(error, position);
    }
  }

  cancelRead(error: QemuFileError): void {
    this.#reader?.cancel(error);
  }

  async shutDown(read: boolean, write: boolean): Promise<void> {
    const stopped = new QemuFileError('ECANCELED', 'the command was shut down', {
      operation: 'shutDown',
    });
    const cutsBatch = write && this.#writer?.pending === true && this.#stdinEnd === undefined;
    if (read) this.#stopReading(stopped);
    if (cutsBatch) {
      this.#stopWriting(stopped);
      // Without an end of its input: it must not take what it has for the whole.
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
    const failure = error === undefined ? await this.#endInOrder() : await this.#end();
    this.#signal?.removeEventListener('abort', this.#onAbort);
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
    if (this.#writer?.pending === true && this.#stdinEnd === undefined) {
      await this.#end();
      return new QemuFileError('ECANCELED', 'closed in the middle of a batch', {
        operation: 'close',
      });
    }
    if (this.#stdin !== undefined) {
      this.#stopReading(closedError());
      this.#stdout?.resume();
      // What a command does not read at its end it does not want: its status says whether that is right.
      await this.#endStdin().catch(noop);
      this.#writeStop ??= closedError();
    } else {
      if (this.#reader?.ended === false) await this.#end();
      this.#readStop ??= closedError();
    }
    await this.#child.ended;
    return this.#aborted ?? this.#writeError ?? this.#child.failure?.('close', undefined);
  }

  /** Ends the command, and both directions before that. */
  async #end(): Promise<undefined> {
    this.#stopReading(closedError());
    this.#stopWriting(closedError());
    await this.#child.force();
  }

  #endStdin(): Promise<void> {
    this.#stdinEnd ??= this.#writer?.end() ?? Promise.resolve();
    return this.#stdinEnd;
  }

  #stopReading(why: QemuFileError): void {
    this.#readStop ??= why;
    this.#reader?.close(why);
    this.#wake();
  }

  #stopWriting(why: QemuFileError): void {
    this.#writeStop ??= why;
    this.#writer?.close(why);
    this.#wake();
  }

  readonly #onAbort = (): void => {
    if (this.#signal === undefined) return;
    this.#aborted = abortError(this.#signal, 'exec');
    this.#stopReading(this.#aborted);
    this.#stopWriting(this.#aborted);
    void this.#child.force();
  };

  /** The end of the output; a command that has yet to say whether it went well is waited for. */
  async #atEnd(position: number): Promise<Uint8Array> {
    if (this.#isTwoWay && this.#child.hasStarted) return END;
    await this.#wait();
    if (this.#readStop !== undefined) throw this.#readStop;
    const failure = this.#child.failure;
    if (failure !== undefined) throw failure('getBuffer', position);
    return END;
  }

  async #readFailed(error: unknown, position: number): Promise<never> {
    await this.#waitForReason(error, () => this.#readStop);
    throw this.#child.failure?.('getBuffer', position) ?? error;
  }

  async #writeFailed(error: unknown, position: number): Promise<never> {
    await this.#waitForReason(error, () => this.#writeStop);
    const { code } = error as QemuFileError;
    const start = this.#child.startFailure;
    if (start !== undefined) this.#writeError = start('writevBuffer', position);
    else if (code === 'EPIPE' || code === 'ECONNRESET')
      this.#writeError = this.#broken(error, position);
    else this.#writeError = error as QemuFileError;
    throw this.#writeError;
  }

  #broken(error: unknown, position: number): QemuFileError {
    const reason = this.#child.hasEnded ? this.#child.describe() : 'the command stopped reading';
    return new QemuFileError('EPIPE', reason, {
      operation: 'writevBuffer',
      position,
      cause: (error as Error).cause ?? error,
    });
  }

  /** There is no such stream, since the command was never started; tells why. */
  async #missing(operation: string, position: number): Promise<never> {
    await this.#wait();
    throw (
      this.#child.failure?.(operation, position) ??
      new QemuFileError('EIO', 'the command has no such stream', { operation, position })
    );
  }

  /** A stream fails a little before its child's status is known, which is what tells why. */
  async #waitForReason(error: unknown, stop: () => QemuFileError | undefined): Promise<void> {
    if (stop() !== undefined || (error as QemuFileError).code === 'EBUSY') throw error;
    await this.#wait(this.#graceMs);
    const why = stop();
    if (why !== undefined) throw why;
  }

  /** Waits for the end of the child, for the time, or for `#wake()`. */
  async #wait(timeoutMs?: number): Promise<void> {
    if (this.#child.hasEnded) return;
    let timer: NodeJS.Timeout | undefined;
    let wake = noop;
    const woken = new Promise<void>((resolve) => {
      wake = resolve;
      this.#waiting.add(resolve);
      if (timeoutMs !== undefined) timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([woken, this.#child.ended]);
    clearTimeout(timer);
    this.#waiting.delete(wake);
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }
}

function closedError(): QemuFileError {
  return new QemuFileError('EBADF', 'the command is closed', { operation: 'close' });
}
