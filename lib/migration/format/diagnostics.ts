import type { MigrationEvent } from './events.ts';
import { type MigrationStreamError, quoteSection, type SectionName } from './stream-error.ts';
import { LIMIT } from './wire.ts';

/** The part of `Diagnostics` that takes warnings. */
export type WarningSink = Pick<Diagnostics, 'warn'>;

/**
 * The warnings about one stream, and the faults after which it can still be read. Both are bounded, so
 * that a hostile stream cannot make the process collect millions of them.
 */
export class Diagnostics {
  readonly #onFault: ((fault: MigrationStreamError) => void) | undefined;
  readonly #warnings: MigrationEvent[] = [];
  #warningCount = 0;
  #faultCount = 0;

  /**
   * @param onFault - Called with each of the first `LIMIT.DIAGNOSTICS` faults. Without it, the first fault
   *   is thrown.
   */
  constructor(onFault: ((fault: MigrationStreamError) => void) | undefined) {
    this.#onFault = onFault;
  }

  /** Report a fault after which reading can go on; throw it if the caller does not collect faults. */
  report(fault: MigrationStreamError): void {
    this.#faultCount += 1;
    if (this.#onFault === undefined || this.#faultCount > LIMIT.DIAGNOSTICS) throw fault;
    this.#onFault(fault);
  }

  /**
   * Add a warning.
   *
   * @param message - A clause without a full stop; text from the stream must be made `printable`.
   * @param offset - Offset in the stream of the bytes that the warning is about.
   * @param section - The section it is in; the message then begins with its name.
   */
  warn(message: string, offset: number, section?: SectionName): void {
    this.#warningCount += 1;
    if (this.#warningCount > LIMIT.DIAGNOSTICS) return;
    const within = section === undefined ? '' : `section ${quoteSection(section)}: `;
    this.#warnings.push({ type: 'warning', offset, message: within + message });
    if (this.#warningCount < LIMIT.DIAGNOSTICS) return;
    this.#warnings.push({ type: 'warning', offset, message: 'further warnings are left out' });
  }

  /** Return the warnings since the last call, as events. */
  takeWarnings(): MigrationEvent[] {
    return this.#warnings.splice(0);
  }
}
