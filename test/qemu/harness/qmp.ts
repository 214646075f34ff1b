// QMP is lines of JSON over a unix socket, along which descriptors may travel; and so is the channel that
// Node gives a child process under the name of `ipc`. A QEMU whose monitor sits on that channel needs no
// socket with a name and no time to connect, and can be handed descriptors, for `migrate fd:…`.
import type { ChildProcess } from 'node:child_process';
import type { Socket } from 'node:net';
import { type WaitOptions, within } from '../../helpers/until.ts';

const GREETING_ID = 0;

/** An event of QEMU. */
export interface QmpEvent {
  /** Such as `STOP` or `MIGRATION`. */
  readonly event: string;
  readonly data: Record<string, unknown>;
}

/** QEMU refused a command. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
  /** QMP's error class, mostly `GenericError`. */
  readonly qmpClass: string;

  constructor(command: string, qmpClass: string, description: string) {
    super(`${command}: ${description}`);
    this.qmpClass = qmpClass;
  }
}

interface Message {
  id?: number;
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
  data?: Record<string, unknown>;
}

interface Waiter<T> {
  resolve: (value: T) => void;
  reject: (error: Error) => void;
}

/** The client's end of the monitor of a QEMU that is our child. */
export class QmpClient {
  readonly #child: ChildProcess;
  readonly #commands = new Map<number, Waiter<unknown> & { command: string }>();
  readonly #eventWaiters = new Set<Waiter<QmpEvent> & { matches: (event: QmpEvent) => boolean }>();
  readonly #events: QmpEvent[] = [];
  #ended: Error | undefined;
  #lastId = GREETING_ID;

  private constructor(child: ChildProcess, ended: Promise<Error>) {
    this.#child = child;
    this.#setRef(false);
    child.on('message', (message) => this.#take(message as Message));
    void ended.then((error) => {
      this.#ended = error;
      for (const { reject } of [...this.#commands.values(), ...this.#eventWaiters]) reject(error);
    });
  }

  /**
   * Waits for QEMU's greeting and leaves negotiation mode.
   *
   * @param child - A QEMU with its monitor on Node's IPC channel.
   * @param ended - Fulfilled when it has ended, with the error for everything still unanswered.
   */
  static async open(child: ChildProcess, ended: Promise<Error>): Promise<QmpClient> {
    const client = new QmpClient(child, ended);
    await client.#answer(GREETING_ID, 'greeting');
    await client.execute('qmp_capabilities');
    return client;
  }

  /** The events so far, oldest first. */
  get events(): readonly QmpEvent[] {
    return this.#events;
  }

  /**
   * Run a command and return its result.
   *
   * @param T - Type of the result by the command's documentation; not checked.
   * @throws QmpError when QEMU refuses.
   */
  async execute<T = unknown>(command: string, args: Record<string, unknown> = {}): Promise<T> {
    this.#lastId += 1;
    const id = this.#lastId;
    const answer = this.#answer(id, command);
    // If the command cannot be sent, QEMU has closed the monitor, and `ended` has the reason.
    this.#child.send({ execute: command, arguments: args, id }, () => {});
    return (await answer) as T;
  }

  /** Run a command of the human monitor and return its output. */
  hmp(commandLine: string): Promise<string> {
    return this.execute<string>('human-monitor-command', { 'command-line': commandLine });
  }

  /** Hands a descriptor to QEMU, which keeps it under a name; the socket around it is used up. */
  async passDescriptor(name: string, socket: Socket): Promise<void> {
    try {
      await new Promise<void>((resolve, reject) => {
        this.#child.send({}, socket, {}, (error) =>
          error === null ? resolve() : reject(this.#ended ?? error),
        );
      });
      // QEMU refuses the message around the descriptor, but keeps the descriptor for `getfd`. Node waits
      // for the receipt that another Node would send, and holds back all that follows until it is there.
      this.#child.emit('internalMessage', { cmd: 'NODE_HANDLE_ACK' });
      await this.execute('getfd', { fdname: name });
    } finally {
      socket.destroy();
    }
  }

  /**
   * Waits for the next event of a name; call it before whatever causes the event.
   *
   * @param matches - Which of the events of that name; default any.
   */
  async waitForEvent(
    name: string,
    {
      matches = () => true,
      ...wait
    }: Partial<WaitOptions> & { matches?: (event: QmpEvent) => boolean } = {},
  ): Promise<QmpEvent> {
    if (this.#ended !== undefined) throw this.#ended;
    let stop = () => {};
    const next = new Promise<QmpEvent>((resolve, reject) => {
      const isIt = (event: QmpEvent) => event.event === name && matches(event);
      const waiter = { resolve, reject, matches: isIt };
      this.#eventWaiters.add(waiter);
      stop = () => this.#eventWaiters.delete(waiter);
    });
    try {
      return await within(next, { what: `the event ${name}`, ...wait });
    } finally {
      stop();
    }
  }

  /**
   * Let QEMU keep this process from ending, which it does while a command waits for its answer: a QEMU that a
   * failed test leaves must not keep it.
   */
  #setRef(isHeld: boolean): void {
    const method = isHeld ? 'ref' : 'unref';
    this.#child[method]();
    this.#child.channel?.[method]();
  }

  #answer(id: number, command: string): Promise<unknown> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      this.#commands.set(id, { command, resolve, reject });
      this.#setRef(true);
    });
  }

  #take(message: Message): void {
    if (message.event !== undefined) {
      const event = { event: message.event, data: message.data ?? {} };
      this.#events.push(event);
      for (const { matches, resolve } of this.#eventWaiters) if (matches(event)) resolve(event);
      return;
    }
    // The greeting has no id, and neither has the refusal of a message that is no command.
    const id = message.id ?? GREETING_ID;
    const pending = this.#commands.get(id);
    if (pending === undefined) return;
    this.#commands.delete(id);
    if (this.#commands.size === 0) this.#setRef(false);
    const { error } = message;
    if (error === undefined) pending.resolve(message.return);
    else pending.reject(new QmpError(pending.command, error.class, error.desc));
  }
}
