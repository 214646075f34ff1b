import { Fifo } from '../../../util/fifo.ts';
import { noop } from '../../../util/noop.ts';

interface Write {
  readonly settled: Promise<void>;
  readonly bytes: number;
}

/** Limits how many bytes are under way to a destination. */
export class InFlight {
  readonly #maxBytes: number;
  readonly #writes = new Fifo<Write>();
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Count bytes until their write settles. Writes settle in their order. */
  add(settled: Promise<void>, bytes: number): void {
    settled.catch(noop);
    this.#writes.push({ settled, bytes });
    this.#bytes += bytes;
  }

  /**
   * Wait until further bytes may be written. More than the limit are written alone.
   *
   * @throws (rejects) the error of a write.
   */
  async room(bytes: number): Promise<void> {
    while (this.#bytes > 0 && this.#bytes + bytes > this.#maxBytes) await this.#next();
  }

  /**
   * Wait until nothing is under way.
   *
   * @throws (rejects) the error of a write.
   */
  async empty(): Promise<void> {
    while (this.#bytes > 0) await this.#next();
  }

  async #next(): Promise<void> {
    const { settled, bytes } = this.#writes.shift() as Write;
    await settled;
    this.#bytes -= bytes;
  }
}
