import type { MigrationEvent, PageVisitor } from '../migration/format/events.ts';

/** Result of publishing an output. */
export interface Published {
  /** Paths of the files that were written. */
  readonly paths: readonly string[];
  /** Notes for the user, as clauses without a full stop. */
  readonly warnings: readonly string[];
}

/** Files made from the RAM of a stream. They appear under their names once complete, or not at all. */
export interface Output {
  /** Receives the pages; pass it to a reader as its page visitor. */
  readonly visitor: PageVisitor;
  /** Receives the events of the reader. */
  onEvent?(event: MigrationEvent): void;
  /**
   * Check that the files can be completed. Call it for all outputs before the first is published.
   *
   * @param machine - Machine type that the stream names; null if it names none.
   * @throws {QemuFileError} If they cannot.
   */
  prepare?(machine: string | null): void;
  /**
   * Complete the files and give them their names. Call it once the whole stream was read and is valid.
   *
   * @param machine - Machine type that the stream names; null if it names none.
   * @throws {QemuFileError} (rejects) The system's own code.
   */
  publish(machine: string | null): Promise<Published>;
  /** Remove what was written, unless it was published. May be called again. */
  discard(): Promise<void>;
}
