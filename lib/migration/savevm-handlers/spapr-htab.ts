import type { SectionKind } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { BodyCount, type HandlerSummary, hex } from './body.ts';

/** What the first word says if there is no table. */
const NO_TABLE = 0xffff_ffff;
/** log2 of the bytes of a table: the least and the most there may be. */
const SHIFT = { LEAST: 18, MOST: 46 } as const;
/** Bytes of an entry. */
const ENTRY = 16;

/** The bodies of section `spapr/htab` in one stream: the page table of a pseries guest. */
export class HashTableBodies {
  /** Entries of the table: the first body says how many. */
  #entries = 0;

  /** Drops one body. */
  async skip(input: StreamInput, kind: SectionKind): Promise<HandlerSummary> {
    const count = new BodyCount();
    await input.need(4, 'the first word of a hash table');
    const at = input.position;
    const word = input.be32();
    if (kind === 'start') {
      this.#start(input, word, at);
      return count;
    }
    if (word === NO_TABLE) return count;
    if (word !== 0) {
      const reason = `a part of a hash table begins with ${hex(word, 8)}, neither 0 nor ${hex(NO_TABLE, 8)}`;
      throw input.error('corrupt', reason, at);
    }
    while (await this.#skipRecord(input, count));
    return count;
  }

  #start(input: StreamInput, shift: number, at: number): void {
    if (shift === NO_TABLE) {
      this.#entries = 0;
      return;
    }
    if (shift < SHIFT.LEAST || shift > SHIFT.MOST) {
      const reason = `a hash table of 2^${shift} bytes is not one of 2^${SHIFT.LEAST} to 2^${SHIFT.MOST}`;
      throw input.error('corrupt', reason, at);
    }
    this.#entries = 2 ** shift / ENTRY;
  }

  /** Drops one record; false for the one that ends the body. */
  async #skipRecord(input: StreamInput, count: BodyCount): Promise<boolean> {
    await input.need(8, 'a record of a hash table');
    const at = input.position;
    const index = input.be32();
    const valid = input.be16();
    const invalid = input.be16();
    if (index === 0 && valid === 0 && invalid === 0) return false;
    if (index + valid + invalid > this.#entries) {
      const reason = `${valid} + ${invalid} entries from ${index} on go beyond a hash table of ${this.#entries}`;
      throw input.error('corrupt', reason, at);
    }
    await input.skip(valid * ENTRY, 'entries of a hash table');
    count.add(valid * ENTRY);
    return true;
  }
}
