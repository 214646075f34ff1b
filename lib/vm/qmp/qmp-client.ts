import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import { connectSocket, type SocketTarget } from '../../../adapters/index.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { noop } from '../../util/noop.ts';
import { LineSplitter } from './line-splitter.ts';
import { QmpError } from './qmp-error.ts';
import { type QmpEvent, QmpEvents } from './qmp-events.ts';
import {
  greetingOf,
  isObject,
  parseMessage,
  type QmpGreeting,
  type QmpMessage,
  quoted,
  text,
} from './qmp-message.ts';
import { type WaitLimits, withTimeout } from './timeout.ts';

/*
 * QMP is one JSON object a line. A server greets, is told `qmp_capabilities`, and then answers commands, in
 * any order if it likes, with the ids that they came with; events come in between.
 */

/** How long a command is waited for. */
export interface QmpExecuteOptions extends WaitLimits {
  /** Milliseconds until `ETIMEDOUT`. Default 60000; 0 is no limit. */
  timeoutMs?: number | undefined;
}

/** How long a connection is waited for. */
export interface QmpConnectOptions extends WaitLimits {
  /** Milliseconds for connection, greeting and negotiation. Default 10000; 0 is no limit. */
  timeoutMs?: number | undefined;
}

/** Which event is waited for, and how long. */
export interface QmpEventOptions extends WaitLimits {
  /** Which of the events of that name. Default: any. */
  matches?: ((event: QmpEvent) => boolean) | undefined;
  /** Also one that has come already, after so many events: an `eventCount` from before its cause. */
  since?: number | undefined;
  /** Milliseconds until `ETIMEDOUT`. Default 60000; 0 is no limit. */
  timeoutMs?: number | undefined;
}

/** What a `QmpClient` emits. */
export interface QmpClientEvents {
  event: [event: QmpEvent];
  /** Once, at the end of the connection; null if it was closed here. */
  close: [error: QemuFileError | null];
}

interface Pending {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

const CONNECT_TIMEOUT_MS = 10_000;
const COMMAND_TIMEOUT_MS = 60_000;
/** Longest line: `query-qmp-schema`, the longest answer by far, has less than 1 MiB. */
const MAX_LINE = 64 * 1024 * 1024;
const KEPT_EVENTS = 1000;

/**
 * A client of QMP, the protocol of QEMU's monitor.
 *
 * Nothing waits for ever or unseen: commands and events have time limits, the end of the connection rejects
 * whatever waits, and nobody is needed to listen. A command that was given up leaves the client usable; QEMU
 * may still carry it out, and its answer is dropped. Of the events the last 1000 are kept.
 *
 * @example
 * ```js
 * await using qmp = await QmpClient.connect('/run/vm.qmp');
 * const { status } = await qmp.execute('query-status');
 * console.log(qmp.greeting.version.major, status);
 * ```
 */
export class QmpClient extends EventEmitter<QmpClientEvents> implements AsyncDisposable {
  readonly #stream: Duplex;
  readonly #lines = new LineSplitter(MAX_LINE);
  readonly #events = new QmpEvents(KEPT_EVENTS);
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #end: { error: QemuFileError | null } | null = null;
  readonly #closed: Promise<void>;
  #greeting: QmpGreeting | undefined;
  #greeted: (greeting: QmpGreeting) => void = noop;
  #notGreeted: (error: QemuFileError) => void = noop;

  private constructor(stream: Duplex) {
    super();
    // Any number may wait for events at a time.
    this.setMaxListeners(0);
    this.#stream = stream;
    this.#closed = new Promise((resolve) => {
      if (stream.closed) resolve();
      else stream.once('close', resolve);
    });
    stream.on('error', this.#onError);
    stream.on('data', this.#onData);
    stream.once('end', this.#onEnd);
    stream.once('close', this.#onEnd);
    if (stream.destroyed || stream.readableEnded) this.#onEnd();
  }

  /**
   * Connects to a monitor in control mode (`-qmp unix:PATH,server=on,wait=off`), and waits until it takes
   * commands.
   *
   * @param target - Path of a unix socket, an address, or a connected stream, which is the client's then.
   * @throws {QemuFileError} (rejects) as `connectSocket`; `ETIMEDOUT` if no greeting comes, as while another
   *   client is connected, for QEMU serves one at a time; `EPROTO` if it is no QMP that comes; `ECONNRESET` if
   *   the connection ends; `ECANCELED` by the signal. {QmpError} if QEMU refuses the negotiation.
   */
  static async connect(
    target: string | SocketTarget | Duplex,
    options: QmpConnectOptions = {},
  ): Promise<QmpClient> {
    const { signal, timeoutMs = CONNECT_TIMEOUT_MS } = options;
    const deadline = timeoutMs > 0 ? performance.now() + timeoutMs : Number.POSITIVE_INFINITY;
    const left = (): number =>
      timeoutMs > 0 ? Math.max(1, Math.ceil(deadline - performance.now())) : 0;
    const client = new QmpClient(await open(target, signal, left()));
    try {
      const greeting = new Promise<QmpGreeting>((resolve, reject) => {
        client.#greeted = resolve;
        client.#notGreeted = reject;
      });
      const tooLate = (): string => client.#noGreeting(timeoutMs);
      const patience = { signal, timeoutMs: left() };
      if (client.#end?.error) client.#notGreeted(client.#end.error);
      await withTimeout(greeting, patience, { operation: 'connect', tooLate });
      await client.execute('qmp_capabilities', {}, { signal, timeoutMs: left() });
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /** What QEMU said of itself. */
  get greeting(): QmpGreeting {
    // There is no client without one: `connect` waits for it.
    return this.#greeting as QmpGreeting;
  }

  /** Number of events so far; `waitForEvent` takes it as `since`. */
  get eventCount(): number {
    return this.#events.count;
  }

  /** Whether the connection has ended. */
  get isClosed(): boolean {
    return this.#end !== null;
  }

  /**
   * Runs a command.
   *
   * @typeParam T - What the command's documentation says that it returns; not checked.
   * @param command - Such as `query-status`.
   * @param args - Its arguments.
   * @returns What it returns. Integers beyond 2^53-1 lose their last digits.
   * @throws {QmpError} (rejects) if QEMU refuses. {QemuFileError} `ETIMEDOUT`, `ECANCELED` by the signal or if the client is
   *   or gets closed, `ECONNRESET` if QEMU ends the connection, `EPROTO` if it sends what is no QMP.
   */
  async execute<T = unknown>(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    options: QmpExecuteOptions = {},
  ): Promise<T> {
    const { signal, timeoutMs = COMMAND_TIMEOUT_MS } = options;
    this.#checkOpen(command);
    this.#lastId += 1;
    const id = this.#lastId;
    const line = `${JSON.stringify({ execute: command, arguments: args, id })}\n`;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { command, resolve, reject });
    });
    if (signal?.aborted !== true) this.#stream.write(line);
    try {
      const tooLate = (): string => `QEMU did not answer in ${timeoutMs} ms`;
      return (await withTimeout(
        answer,
        { signal, timeoutMs },
        { operation: command, tooLate },
      )) as T;
    } finally {
      this.#pending.delete(id);
    }
  }

  /**
   * Waits for an event. Called before its cause it cannot miss it; called after it, it needs `since`:
   *
   * ```js
   * const since = qmp.eventCount;
   * await qmp.execute('stop');
   * await qmp.waitForEvent('STOP', { since });
   * ```
   *
   * @param name - Such as `STOP`.
   * @throws {QemuFileError} (rejects) `ETIMEDOUT`, `ECANCELED` by the signal or if the client is closed; what ended the
   *   connection; what `matches` throws.
   */
  async waitForEvent(name: string, options: QmpEventOptions = {}): Promise<QmpEvent> {
    const { matches, since, signal, timeoutMs = COMMAND_TIMEOUT_MS } = options;
    let withdraw = noop;
    let onClose = noop;
    const next = new Promise<QmpEvent>((resolve, reject) => {
      const isIt = (event: QmpEvent): boolean => {
        try {
          return event.event === name && (matches === undefined || matches(event));
        } catch (error) {
          // Whoever waits is told, not whoever reads the connection.
          reject(error);
          return false;
        }
      };
      withdraw = this.#events.first(since ?? this.#events.count, isIt, resolve);
      onClose = () => reject(this.#end?.error ?? closedError('waitForEvent'));
      if (this.#end === null) this.once('close', onClose);
      else onClose();
    });
    try {
      const tooLate = (): string => `the event ${name} did not come in ${timeoutMs} ms`;
      const waiting = { operation: 'waitForEvent', tooLate };
      return await withTimeout(next, { signal, timeoutMs }, waiting);
    } finally {
      withdraw();
      this.off('close', onClose);
    }
  }

  /**
   * Gives the events that come from now on. The iteration ends with `close()`.
   *
   * @throws {QemuFileError} (rejects) what ended the connection; `ENOBUFS` if 1000 events came and were not taken.
   */
  [Symbol.asyncIterator](): AsyncGenerator<QmpEvent, void> {
    return this.#events.after(this.#events.count);
  }

  /** Closes the connection; whatever waits is rejected with `ECANCELED`. May be called again. */
  async close(): Promise<void> {
    this.#finish(null);
    await this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #checkOpen(operation: string): void {
    if (this.#end !== null) throw this.#end.error ?? closedError(operation);
  }

  readonly #onData = (chunk: Buffer): void => {
    for (const line of this.#orFinish(() => this.#lines.add(chunk)) ?? []) {
      if (line.trim() === '') continue;
      const message = this.#orFinish(() => parseMessage(line, this.#greeting === undefined));
      if (message !== undefined && this.#end === null) this.#take(message);
    }
  };

  /** What the other end must not send ends the connection. */
  #orFinish<T>(work: () => T): T | undefined {
    try {
      return work();
    } catch (error) {
      this.#finish(toQemuFileError(error));
      return undefined;
    }
  }

  readonly #onError = (error: Error): void => {
    const failure = toQemuFileError(error, { operation: 'QmpClient' });
    // Which of the two it is depends on whether something was just being written.
    if (failure.code === 'EPIPE' || failure.code === 'ECONNRESET') this.#onEnd(error);
    else this.#finish(failure);
  };

  readonly #onEnd = (cause?: unknown): void => {
    const context = cause instanceof Error ? { cause } : {};
    const reason = 'QEMU ended the connection to its monitor';
    this.#finish(new QemuFileError('ECONNRESET', reason, { operation: 'QmpClient', ...context }));
  };

  #take(message: QmpMessage): void {
    if (this.#greeting === undefined && message.QMP !== undefined) {
      this.#greeting = greetingOf(message.QMP);
      this.#greeted(this.#greeting);
    } else if (typeof message.event === 'string') {
      const { event, timestamp } = message;
      const data = isObject(message.data) ? message.data : {};
      const known = isObject(timestamp) && timestamp.seconds >= 0;
      const whole = known ? { event, data, timestamp } : { event, data };
      this.emit('event', this.#events.add(whole));
    } else if (typeof message.id === 'number') {
      // Others are answers to what was given up.
      const pending = this.#pending.get(message.id);
      if (pending === undefined) return;
      const { error } = message;
      if (error === undefined) pending.resolve(message.return);
      else pending.reject(new QmpError(pending.command, text(error?.class), text(error?.desc)));
    }
  }

  /** The end, by whatever comes first. */
  #finish(error: QemuFileError | null): void {
    if (this.#end !== null) return;
    this.#end = { error };
    const stream = this.#stream;
    stream.off('data', this.#onData).off('end', this.#onEnd).off('close', this.#onEnd);
    // Errors stay handled until it has closed.
    stream.once('close', () => stream.off('error', this.#onError));
    stream.destroy();
    const failure = error ?? closedError('QmpClient');
    this.#notGreeted(failure);
    for (const { command, reject } of this.#pending.values()) {
      reject(error ?? closedError(command));
    }
    this.#pending.clear();
    this.#events.end(error);
    this.emit('close', error);
  }

  #noGreeting(timeoutMs: number): string {
    const { rest } = this.#lines;
    if (rest !== '') return `no greeting came in ${timeoutMs} ms, only ${quoted(rest)}`;
    return (
      `it is connected, but no greeting came in ${timeoutMs} ms: QEMU serves one client of a monitor at a ` +
      'time, and another one is connected, or this is no QMP monitor'
    );
  }
}

async function open(
  target: string | SocketTarget | Duplex,
  signal: AbortSignal | undefined,
  timeoutMs: number,
): Promise<Duplex> {
  if (typeof target === 'object' && 'pipe' in target) return target;
  const address = typeof target === 'string' ? { path: target } : target;
  return connectSocket(address, { signal, ...(timeoutMs > 0 ? { timeoutMs } : {}) });
}

function closedError(operation: string): QemuFileError {
  return new QemuFileError('ECANCELED', 'the QMP client is closed', { operation });
}
