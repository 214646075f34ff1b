import type { MigrationEvent } from './events.ts';
import type { MigrationStreamError } from './stream-error.ts';
import { LIMIT } from './wire.ts';

/** Warnings, and faults that a stream can be read in spite of: a hostile one must not make too many. */
export class Diagnostics {
  readonly #onFault: ((fault: MigrationStreamError) => void) | undefined;
  readonly #warnings: MigrationEvent[] = [];
  #warned = 0;
  #faults = 0;

  /** @param onFault - Told of the first `LIMIT.DIAGNOSTICS` faults; without it the first one is thrown. */
  constructor(onFault: ((fault: MigrationStreamError) => void) | undefined) {
    this.#onFault = onFault;
  }

  /** Notes a fault, or throws it. */
  readonly report = (fault: MigrationStreamError): void => {
    this.#faults += 1;
    if (this.#onFault === undefined || this.#faults > LIMIT.DIAGNOSTICS) throw fault;
    this.#onFault(fault);
  };

  /** Notes what a person should know. */
  readonly warn = (message: string, offset: number): void => {
    this.#warned += 1;
    if (this.#warned > LIMIT.DIAGNOSTICS) return;
    this.#warnings.push({ type: 'warning', offset, message });
    if (this.#warned < LIMIT.DIAGNOSTICS) return;
    this.#warnings.push({ type: 'warning', offset, message: 'further warnings are left out' });
  };

  /** The warnings since this was last asked. */
  takeWarnings(): MigrationEvent[] {
    return this.#warnings.splice(0);
  }
}
