import { QemuFileError } from '../../contract/errors.ts';

/** An event that QEMU sent. */
export interface QmpEvent {
  /** Name, such as `STOP` or `MIGRATION`. */
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** When it happened, by the host's clock; absent if QEMU could not read the clock. */
  readonly timestamp?: { readonly seconds: number; readonly microseconds: number };
  /** Number of the event on this connection, from 1. */
  readonly sequence: number;
}

/** The most recent events of a connection, and the readers that wait for the next ones. */
export class QmpEvents {
  readonly #maxKept: number;
  #kept: QmpEvent[] = [];
  #count = 0;
  #end: { error: QemuFileError | null } | null = null;
  readonly #waiting = new Set<() => void>();

  /** @param maxKept - Number of events that are kept at least. */
  constructor(maxKept: number) {
    this.#maxKept = maxKept;
  }

  /** Number of events so far. */
  get count(): number {
    return this.#count;
  }

  /** Number an event, keep it, and wake the readers. */
  add(event: Omit<QmpEvent, 'sequence'>): QmpEvent {
    this.#count += 1;
    const numbered = { ...event, sequence: this.#count };
    this.#kept.push(numbered);
    // Not at every event, because slicing copies all of them.
    if (this.#kept.length >= 2 * this.#maxKept) this.#kept = this.#kept.slice(-this.#maxKept);
    this.#wake();
    return numbered;
  }

  /** Note the end of the connection, and wake the readers. */
  end(error: QemuFileError | null): void {
    this.#end ??= { error };
    this.#wake();
  }

  /**
   * Yield the events after a sequence number: first the kept ones, then new ones as they arrive.
   *
   * @throws {QemuFileError} (rejects) `ENOBUFS` if the next event is no longer kept; the error that ended the
   *   connection, unless it was closed in order.
   */
  async *after(sequence: number): AsyncGenerator<QmpEvent, void> {
    for (let last = sequence; ; ) {
      const index = last - (this.#count - this.#kept.length);
      if (index < 0) {
        const reason = `more than ${this.#maxKept} events arrived before they were read`;
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
   * Find the first event after a sequence number that `matches` accepts, among the kept events and those to come.
   *
   * @returns A function that ends the search.
   */
  first(
    sequence: number,
    matches: (event: QmpEvent) => boolean,
    onFound: (event: QmpEvent) => void,
  ): () => void {
    let last = sequence;
    const look = (): void => {
      for (const event of this.#kept) {
        if (event.sequence <= last) continue;
        last = event.sequence;
        if (!matches(event)) continue;
        onFound(event);
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
