import type { QemuFileError } from '../../contract/errors.ts';
import { QmpError } from './qmp-error.ts';
import { type QmpMessage, toText } from './qmp-message.ts';

interface PendingCommand {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** The commands that QEMU has not answered yet, by their ids. */
export class PendingCommands {
  readonly #pending = new Map<number, PendingCommand>();
  #lastId = 0;

  /** Return an id that no other command of this connection has. */
  nextId(): number {
    this.#lastId += 1;
    return this.#lastId;
  }

  /**
   * Wait for the answer to a command.
   *
   * @returns A function that ends the wait; a later answer is then ignored.
   */
  add(id: number, command: PendingCommand): () => void {
    this.#pending.set(id, command);
    return () => this.#pending.delete(id);
  }

  /** Settle the command that a message answers. An answer to a command that was given up is ignored. */
  settle({ id, error, return: result }: QmpMessage): void {
    const pending = this.#pending.get(id as number);
    if (pending === undefined) return;
    if (error === undefined) pending.resolve(result);
    else pending.reject(new QmpError(pending.command, toText(error?.class), toText(error?.desc)));
  }

  /** Reject all commands. */
  rejectAll(errorFor: (command: string) => QemuFileError): void {
    const all = [...this.#pending.values()];
    this.#pending.clear();
    for (const { command, reject } of all) reject(errorFor(command));
  }
}
