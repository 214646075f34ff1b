import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import { connectSocket } from '../../../adapters/socket/connect.ts';
import type { SocketTarget } from '../../../adapters/socket/socket-target.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { waitFor, waitForPromise } from '../../contract/wait-for.ts';
import { noop } from '../../util/noop.ts';
import { LineSplitter } from './line-splitter.ts';
import { PendingCommands } from './pending-commands.ts';
import { type QmpEvent, QmpEvents } from './qmp-events.ts';
import {
  greetingOf,
  isObject,
  parseMessage,
  type QmpGreeting,
  type QmpMessage,
  quoteStart,
} from './qmp-message.ts';
import type {
  QmpClientEvents,
  QmpConnectOptions,
  QmpEventOptions,
  QmpExecuteOptions,
} from './qmp-options.ts';

/*
 * QMP is one JSON object per line. The server sends a greeting, the client answers with `qmp_capabilities`,
 * and from then on the server runs commands. Each answer carries the id of its command; answers may arrive in
 * any order, with events between them.
 */

const CONNECT_TIMEOUT_MS = 10_000;
const COMMAND_TIMEOUT_MS = 60_000;
/** Longest line. The longest answer by far, that of `query-qmp-schema`, is shorter than 1 MiB. */
const MAX_LINE_BYTES = 64 * 1024 * 1024;
const KEPT_EVENTS = 1000;

/**
 * A client of QMP, the protocol of QEMU's monitor.
 *
 * Every wait is bounded: commands and events have a time limit, and the end of the connection rejects
 * everything that waits. The process does not need an 'error' listener. A command that times out or is
 * aborted leaves the client usable; QEMU may still run it, and its late answer is ignored. The client keeps
 * the last 1000 events.
 *
 * @example
 * ```js
 * await using qmp = await QmpClient.connect('/run/vm.qmp');
 * console.log(qmp.greeting.version.major, await qmp.execute('query-status')); // 7 { status: 'running', … }
 * ```
 */
export class QmpClient extends EventEmitter<QmpClientEvents> implements AsyncDisposable {
  readonly #stream: Duplex;
  readonly #lines = new LineSplitter(MAX_LINE_BYTES, 'QmpClient');
  readonly #events = new QmpEvents(KEPT_EVENTS);
  readonly #commands = new PendingCommands();
  #end: { error: QemuFileError | null } | null = null;
  readonly #closed: Promise<void>;
  #greeting: QmpGreeting | undefined;
  #hasOob = false;
  #onGreeting: (greeting: QmpGreeting) => void = noop;
  #onNoGreeting: (error: QemuFileError) => void = noop;

  private constructor(stream: Duplex) {
    super();
    // Any number of callers may wait for events at the same time.
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
   * Connect to a QMP monitor (`-qmp unix:PATH,server=on,wait=off`) and negotiate until it takes commands.
   *
   * @param target - Path of a unix socket, an address, or a connected stream, which the client then owns.
   * @param options - Signal, and time limit for the whole of connection, greeting and negotiation.
   * @throws {QemuFileError} (rejects) as `connectSocket`; `ETIMEDOUT` if no greeting arrives, for example
   *   because another client is connected (QEMU serves one at a time); `EPROTO` if the peer does not speak
   *   QMP; `ENOTSUP` if its monitor does not offer `oob`; `ECONNRESET` if the connection ends; `ECANCELED` if
   *   the signal aborts. {QmpError} if QEMU refuses the negotiation.
   */
  static async connect(
    target: string | SocketTarget | Duplex,
    options: QmpConnectOptions = {},
  ): Promise<QmpClient> {
    const { signal, timeoutMs = CONNECT_TIMEOUT_MS } = options;
    const deadline = timeoutMs > 0 ? performance.now() + timeoutMs : Number.POSITIVE_INFINITY;
    const remainingMs = (): number =>
      timeoutMs > 0 ? Math.max(1, Math.ceil(deadline - performance.now())) : 0;
    const client = new QmpClient(await openStream(target, signal, remainingMs()));
    try {
      await client.#waitForGreeting({ signal, timeoutMs: remainingMs() }, timeoutMs);
      const enable = options.oob === true ? { enable: ['oob'] } : {};
      client.#hasOob = client.#checkOob(options.oob === true);
      await client.execute('qmp_capabilities', enable, { signal, timeoutMs: remainingMs() });
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /** QEMU's greeting: its version and the capabilities of its QMP. */
  get greeting(): QmpGreeting {
    // `connect` returns a client only after the greeting has arrived.
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
   * Run a command.
   *
   * @typeParam T - Type of the result according to QEMU's documentation; not checked.
   * @param command - Name, such as `query-status`.
   * @param args - Arguments of the command.
   * @returns The result of the command. Integers beyond 2^53-1 lose their last digits.
   * @throws {QmpError} (rejects) if QEMU refuses the command. {QemuFileError} `ETIMEDOUT`; `ECANCELED` if the
   *   signal aborts or the client is closed; `ECONNRESET` if QEMU ends the connection; `EPROTO` if the peer
   *   sends a line that is not QMP; `EINVAL` for `oob` on a client that was connected without it.
   */
  async execute<T = unknown>(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    options: QmpExecuteOptions = {},
  ): Promise<T> {
    const { signal, timeoutMs = COMMAND_TIMEOUT_MS } = options;
    this.#checkOpen(command);
    if (options.oob === true && !this.#hasOob) {
      const reason =
        'the client was connected without `oob`, so it cannot run commands out of band';
      throw new QemuFileError('EINVAL', reason, { operation: command });
    }
    const id = this.#commands.nextId();
    const verb = options.oob === true ? 'exec-oob' : 'execute';
    const line = `${JSON.stringify({ [verb]: command, arguments: args, id })}\n`;
    const answer = await waitFor<unknown>(
      (resolve, reject) => {
        const forget = this.#commands.add(id, { command, resolve, reject });
        this.#stream.write(line);
        return forget;
      },
      {
        signal,
        timeoutMs,
        operation: command,
        timeoutReason: () => `QEMU did not answer within ${timeoutMs} ms`,
      },
    );
    return answer as T;
  }

  /**
   * Wait for an event. A call before the cause of the event cannot miss it; a call after it needs `since`:
   *
   * ```js
   * const since = qmp.eventCount;
   * await qmp.execute('stop');
   * await qmp.waitForEvent('STOP', { since });
   * ```
   *
   * @param name - Name of the event, such as `STOP`.
   * @param options - Which of the events of that name, and limits of the wait.
   * @throws {QemuFileError} (rejects) `ETIMEDOUT`; `ECANCELED` if the signal aborts or the client is closed; the
   *   error that ended the connection; the error that `matches` throws.
   */
  async waitForEvent(name: string, options: QmpEventOptions = {}): Promise<QmpEvent> {
    const { matches, since, signal, timeoutMs = COMMAND_TIMEOUT_MS } = options;
    return waitFor<QmpEvent>(
      (resolve, reject) => {
        const isExpected = (event: QmpEvent): boolean => {
          try {
            return event.event === name && (matches === undefined || matches(event));
          } catch (error) {
            // The error belongs to this caller, not to the reader of the connection.
            reject(error);
            return false;
          }
        };
        const onClose = (): void => reject(this.#end?.error ?? closedError('waitForEvent'));
        const stopSearch = this.#events.first(since ?? this.#events.count, isExpected, resolve);
        if (this.#end === null) this.once('close', onClose);
        else onClose();
        return () => {
          stopSearch();
          this.off('close', onClose);
        };
      },
      {
        signal,
        timeoutMs,
        operation: 'waitForEvent',
        timeoutReason: () => `the event ${name} did not arrive within ${timeoutMs} ms`,
      },
    );
  }

  /**
   * Yield the events from now on. `close()` ends the iteration.
   *
   * @throws {QemuFileError} (rejects) the error that ended the connection; `ENOBUFS` if 1000 events arrived
   *   before the caller read them.
   */
  [Symbol.asyncIterator](): AsyncGenerator<QmpEvent, void> {
    return this.#events.after(this.#events.count);
  }

  /** Close the connection and reject everything that waits with `ECANCELED`. May be called again. */
  async close(): Promise<void> {
    this.#finish(null);
    await this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #waitForGreeting(
    limits: { signal: AbortSignal | undefined; timeoutMs: number },
    timeoutMs: number,
  ): Promise<void> {
    const greeting = new Promise<QmpGreeting>((resolve, reject) => {
      this.#onGreeting = resolve;
      this.#onNoGreeting = reject;
    });
    if (this.#end?.error) this.#onNoGreeting(this.#end.error);
    const timeoutReason = (): string => this.#noGreetingReason(timeoutMs);
    await waitForPromise(greeting, { ...limits, operation: 'connect', timeoutReason });
  }

  /** Return whether commands can run out of band; throw if that is wanted and QEMU does not offer it. */
  #checkOob(isWanted: boolean): boolean {
    if (!isWanted || this.greeting.capabilities.includes('oob')) return isWanted;
    const reason =
      'this monitor does not offer the capability "oob" (QEMU 2.12 and later, -qmp with a socket that is not ' +
      'multiplexed)';
    throw new QemuFileError('ENOTSUP', reason, { operation: 'connect' });
  }

  #checkOpen(operation: string): void {
    if (this.#end !== null) throw this.#end.error ?? closedError(operation);
  }

  readonly #onData = (chunk: Buffer): void => {
    // Collected first, because an error that an 'event' listener throws is not an error of the connection.
    const lines: string[] = [];
    let failure: unknown;
    try {
      this.#lines.add(chunk, (line) => lines.push(line));
    } catch (error) {
      failure = error;
    }
    for (const line of lines) this.#onLine(line);
    if (failure !== undefined) this.#finish(toQemuFileError(failure));
  };

  #onLine(line: string): void {
    if (line.trim() === '' || this.#end !== null) return;
    let message: QmpMessage;
    try {
      message = parseMessage(line, this.#greeting === undefined);
    } catch (error) {
      this.#finish(toQemuFileError(error));
      return;
    }
    this.#handle(message);
  }

  readonly #onError = (error: Error): void => {
    const failure = toQemuFileError(error, { operation: 'QmpClient' });
    // Whether a lost peer shows as EPIPE or as ECONNRESET depends on whether a write was in progress.
    if (failure.code === 'EPIPE' || failure.code === 'ECONNRESET') this.#onEnd(error);
    else this.#finish(failure);
  };

  readonly #onEnd = (cause?: unknown): void => {
    const reason = 'QEMU ended the connection to its monitor';
    const context = { operation: 'QmpClient', cause: cause instanceof Error ? cause : undefined };
    this.#finish(new QemuFileError('ECONNRESET', reason, context));
  };

  #handle(message: QmpMessage): void {
    if (this.#greeting === undefined && message.QMP !== undefined) {
      this.#greeting = greetingOf(message.QMP);
      this.#onGreeting(this.#greeting);
    } else if (typeof message.event === 'string') {
      const { event, timestamp } = message;
      const data = isObject(message.data) ? message.data : {};
      // QEMU sends negative numbers if it could not read the clock.
      const hasTime = isObject(timestamp) && timestamp.seconds >= 0;
      this.emit('event', this.#events.add(hasTime ? { event, data, timestamp } : { event, data }));
    } else if (typeof message.id === 'number') {
      this.#commands.settle(message);
    }
  }

  /** End the connection; the first reason counts. */
  #finish(error: QemuFileError | null): void {
    if (this.#end !== null) return;
    this.#end = { error };
    const stream = this.#stream;
    stream.off('data', this.#onData).off('end', this.#onEnd).off('close', this.#onEnd);
    // The stream may emit an error until it has closed.
    stream.once('close', () => stream.off('error', this.#onError));
    stream.destroy();
    const errorFor = (operation: string): QemuFileError => error ?? closedError(operation);
    this.#onNoGreeting(errorFor('QmpClient'));
    this.#commands.rejectAll(errorFor);
    this.#events.end(error);
    this.emit('close', error);
  }

  #noGreetingReason(timeoutMs: number): string {
    const { rest } = this.#lines;
    if (rest !== '') return `no greeting arrived within ${timeoutMs} ms, only ${quoteStart(rest)}`;
    return (
      `connected, but no greeting arrived within ${timeoutMs} ms: another client may be connected (QEMU ` +
      'serves one client per monitor at a time), or this is not a QMP monitor'
    );
  }
}

async function openStream(
  target: string | SocketTarget | Duplex,
  signal: AbortSignal | undefined,
  timeoutMs: number,
): Promise<Duplex> {
  if (typeof target === 'object' && target !== null && 'pipe' in target) return target;
  const address = typeof target === 'string' ? { path: target } : target;
  return connectSocket(address, { signal, timeoutMs: timeoutMs > 0 ? timeoutMs : undefined });
}

function closedError(operation: string): QemuFileError {
  return new QemuFileError('ECANCELED', 'the QMP client is closed', { operation });
}
