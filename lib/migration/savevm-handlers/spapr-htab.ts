import { hex } from '../../util/format.ts';
import type { SectionKind } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { BodyCount, type HandlerSummary } from './body.ts';

/** The first word if there is no table. */
const NO_TABLE = 0xffff_ffff;
/** log2 of the bytes of the smallest and the largest table. */
const MIN_SHIFT = 18;
const MAX_SHIFT = 46;
/** Bytes of an entry. */
const ENTRY_BYTES = 16;

/** The bodies of section `spapr/htab` in one stream: the hash page table of a pseries guest. */
export class HashTableBodies {
  /** Number of entries of the table, from the SECTION_START. */
  #entryCount = 0;

  /** Skip one body. */
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
      const reason = `a part of a hash table begins with ${hex(word, 8)}, not 0 or ${hex(NO_TABLE, 8)}`;
      throw input.error('corrupt', reason, at);
    }
    while (await this.#skipRecord(input, count));
    return count;
  }

  #start(input: StreamInput, shift: number, at: number): void {
    if (shift === NO_TABLE) {
      this.#entryCount = 0;
      return;
    }
    if (shift < MIN_SHIFT || shift > MAX_SHIFT) {
      const reason = `a hash table of 2^${shift} bytes, not 2^${MIN_SHIFT} to 2^${MAX_SHIFT}`;
      throw input.error('corrupt', reason, at);
    }
    this.#entryCount = 2 ** shift / ENTRY_BYTES;
  }

  /** Skip one record; return false for the one that ends the body. */
  async #skipRecord(input: StreamInput, count: BodyCount): Promise<boolean> {
    await input.need(8, 'a record of a hash table');
    const at = input.position;
    const index = input.be32();
    const valid = input.be16();
    const invalid = input.be16();
    if (index === 0 && valid === 0 && invalid === 0) return false;
    if (index + valid + invalid > this.#entryCount) {
      const reason = `${valid} + ${invalid} entries from index ${index} exceed a hash table of ${this.#entryCount}`;
      throw input.error('corrupt', reason, at);
    }
    await input.skip(valid * ENTRY_BYTES, 'entries of a hash table');
    count.add(valid * ENTRY_BYTES);
    return true;
  }
}
