import { QemuFileError } from '../../contract/errors.ts';
import { type WaitLimits, waitForPromise } from '../../contract/wait-for.ts';
import { ReturnPathReader } from '../../migration/reader/return-path.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import type { DestinationMemory } from './destination-memory.ts';

const OPERATION = 'restoreLazily';

/** What a destination sends on its return path. */
export interface ReturnPathHandler {
  /** The destination needs pages: one page of the host, or several adjacent ones. */
  request(block: number, offset: number, length: number): void;
  /** The destination has answered the next PING of value `LOADED_PING`. */
  loaded(): void;
}

/**
 * Reads the return path of a destination from the start of the connection to its end. Requests go to the handler
 * at once; the other messages can be waited for.
 */
export class ReturnPathListener {
  /** Resolves with the value of SHUT; rejects with the reason if the return path ends before it. */
  readonly shut: Promise<number>;
  readonly #memory: DestinationMemory;
  readonly #handler: ReturnPathHandler;
  readonly #pongs: Record<number, PromiseWithResolve<void>> = {};
  readonly #bitmaps = new Map<string, PromiseWithResolve<Uint8Array>>();
  readonly #resumed: PromiseWithResolve<void> = withResolve();
  #hasStarted = false;

  /**
   * @param file - The connection.
   * @param memory - The memory of the destination: messages are checked against it.
   * @param handler - Receives the requests.
   */
  constructor(file: QemuFile, memory: DestinationMemory, handler: ReturnPathHandler) {
    this.#memory = memory;
    this.#handler = handler;
    this.shut = this.#run(file);
    this.shut.catch(noop);
  }

  /** Whether the destination has begun to run the package to its end. */
  get hasStarted(): boolean {
    return this.#hasStarted;
  }

  /** Wait for the answer to a PING. */
  pong(value: number, limits: WaitLimits = {}): Promise<void> {
    return this.#wait(this.#pongOf(value).promise, `the answer to PING ${value}`, limits);
  }

  /** Wait for the bitmap of the pages of a block that the destination has. */
  bitmap(block: string, limits: WaitLimits = {}): Promise<Uint8Array> {
    return this.#wait(this.#bitmapOf(block).promise, `the bitmap of RAM block "${block}"`, limits);
  }

  /** Wait until the destination is ready to go on after a broken connection. */
  resumed(limits: WaitLimits = {}): Promise<void> {
    return this.#wait(this.#resumed.promise, 'the answer to POSTCOPY_RESUME', limits);
  }

  /** Wait for a message; the end of the return path ends the wait. */
  #wait<T>(message: Promise<T>, what: string, limits: WaitLimits): Promise<T> {
    const ended = this.shut.then((): never => {
      throw new QemuFileError('EIO', `QEMU ended its return path before ${what}`, {
        operation: OPERATION,
      });
    });
    return waitForPromise(Promise.race([message, ended]), {
      ...limits,
      operation: OPERATION,
      timeoutReason: () => `QEMU did not send ${what} within ${limits.timeoutMs} ms`,
    });
  }

  async #run(file: QemuFile): Promise<number> {
    const reader = new ReturnPathReader(file);
    reader.memory = this.#memory;
    for await (const message of reader) {
      switch (message.name) {
        case 'REQ_PAGES':
        case 'REQ_PAGES_ID':
          this.#handler.request(this.#memory.indexOf(message.block), message.start, message.length);
          break;
        case 'PONG':
          if (message.value === LOADED_PING) {
            this.#handler.loaded();
            break;
          }
          this.#hasStarted ||= message.value === START_PING;
          this.#pongOf(message.value).resolve();
          break;
        case 'RECV_BITMAP':
          this.#bitmapOf(message.block).resolve(message.bitmap);
          break;
        case 'RESUME_ACK':
          this.#resumed.resolve();
          break;
        case 'SHUT':
          return message.value;
        case 'SWITCHOVER_ACK':
      }
    }
    const reason = "QEMU ended the connection before all of the guest's memory had arrived";
    throw new QemuFileError('ECONNRESET', reason, { operation: OPERATION });
  }

  #pongOf(value: number): PromiseWithResolve<void> {
    this.#pongs[value] ??= withResolve();
    return this.#pongs[value];
  }

  #bitmapOf(block: string): PromiseWithResolve<Uint8Array> {
    let entry = this.#bitmaps.get(block);
    if (entry === undefined) {
      entry = withResolve();
      this.#bitmaps.set(block, entry);
    }
    return entry;
  }
}

/** The value of the PING that comes right before RUN. */
export const START_PING = 3;

/** The value of the PINGs after pages, of which there are many. */
export const LOADED_PING = 5;

interface PromiseWithResolve<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
}

function withResolve<T>(): PromiseWithResolve<T> {
  let resolve: (value: T) => void = noop;
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
