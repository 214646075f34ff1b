import { QemuFileError } from '../../contract/errors.ts';

/** What QEMU reports without having been asked. */
export interface QmpEvent {
  /** Such as `STOP` or `MIGRATION`. */
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** When it happened, by the host's clock; absent if QEMU could not tell. */
  readonly timestamp?: { readonly seconds: number; readonly microseconds: number };
  /** Its number on this connection, from 1 on. */
  readonly sequence: number;
}

/** The last events of a connection, and who waits for the next ones. */
export class QmpEvents {
  readonly #most: number;
  #kept: QmpEvent[] = [];
  #count = 0;
  #end: { error: QemuFileError | null } | null = null;
  readonly #waiting = new Set<() => void>();

  /** @param most - How many events are kept. */
  constructor(most: number) {
    this.#most = most;
  }

  /** Number of events so far. */
  get count(): number {
    return this.#count;
  }

  /** Takes an event in, and numbers it. */
  add(event: Omit<QmpEvent, 'sequence'>): QmpEvent {
    this.#count += 1;
    const numbered = { ...event, sequence: this.#count };
    this.#kept.push(numbered);
    // Now and then, not each time, for it moves all of them.
    if (this.#kept.length >= 2 * this.#most) this.#kept = this.#kept.slice(-this.#most);
    this.#wake();
    return numbered;
  }

  /** No more come. */
  end(error: QemuFileError | null): void {
    this.#end ??= { error };
    this.#wake();
  }

  /**
   * Gives the events after a number, those that are kept first, then those that come.
   *
   * @throws {QemuFileError} (rejects) `ENOBUFS` if an event that is to be given is not kept any more; what
   *   ended the connection, if it was not closed in order.
   */
  async *after(sequence: number): AsyncGenerator<QmpEvent, void> {
    for (let last = sequence; ; ) {
      const index = last - (this.#count - this.#kept.length);
      if (index < 0) {
        const reason = `more than ${this.#most} events came before they were looked at`;
        throw new QemuFileError('ENOBUFS', reason, { operation: 'events' });
      }
      const next = this.#kept[index];
      if (next !== undefined) {
        last = next.sequence;
        yield next;
      } else if (this.#end !== null) {
        if (this.#end.error !== null) throw this.#end.error;
        return;
      } else {
        await new Promise<void>((resolve) => this.#waiting.add(resolve));
      }
    }
  }

  /**
   * Gives the first event after a number that is the right one.
   *
   * @returns Withdraws the wait.
   */
  first(
    sequence: number,
    matches: (event: QmpEvent) => boolean,
    found: (event: QmpEvent) => void,
  ): () => void {
    let last = sequence;
    const look = (): void => {
      for (const event of this.#kept) {
        if (event.sequence <= last) continue;
        last = event.sequence;
        if (!matches(event)) continue;
        found(event);
        return;
      }
      if (this.#end === null) this.#waiting.add(look);
    };
    look();
    return () => this.#waiting.delete(look);
  }

  #wake(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const wake of waiting) wake();
  }
}
