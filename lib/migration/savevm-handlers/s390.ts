import type { WarningSink } from '../format/diagnostics.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, LIMIT } from '../format/wire.ts';
import { BodyCount, type HandlerSummary, hex, lengthOf } from './body.ts';

/** Bits of a word below the address. */
const FLAGS = 0xfffn;
/** Flags of both sections; the address of a mark that ends something is 0. */
const EOS = 0x01n;
const DATA = 0x02n;
const ERROR = 0x04n;
const DONE = 0x08n;

/** Bytes of the longest piece of storage attributes. */
const ATTRIBUTES = 524_288;
/** A storage key of one byte for each page. */
const KEYS: number = LIMIT.RAM / 4096;

const CLOCK_MISSING = 0;
const CLOCK_PRESENT = 1;

/** Drops a body of section `s390-storage_attributes`. */
export async function skipStorageAttributes(input: StreamInput): Promise<HandlerSummary> {
  const count = new BodyCount();
  let done = false;
  for (;;) {
    await input.need(1, 'a word of storage attributes');
    // The end mark may be missing once all has been said; no word has such an address.
    if (done && input.file.peekByte(0) === ITEM.FOOTER) return count;
    await input.need(8, 'a word of storage attributes');
    const at = input.position;
    const word = input.be64();
    if (word === EOS) return count;
    if (word === DONE) {
      done = true;
    } else if ((word & FLAGS) === DATA) {
      const length = await lengthOf(input, 'storage attributes', ATTRIBUTES);
      await input.skip(length, 'storage attributes');
      count.add(length);
    } else {
      throw badWord(input, word, 'storage attributes', at);
    }
  }
}

/** Drops the body of section `s390-skeys`. */
export async function skipStorageKeys(input: StreamInput): Promise<HandlerSummary> {
  const count = new BodyCount();
  for (;;) {
    await input.need(8, 'a word of storage keys');
    const at = input.position;
    const word = input.be64();
    if (word === EOS) return count;
    if ((word & FLAGS) !== DATA) throw badWord(input, word, 'storage keys', at);
    const length = await lengthOf(input, 'storage keys', KEYS);
    await input.skip(length, 'storage keys');
    count.add(length);
  }
}

function badWord(input: StreamInput, word: bigint, what: string, at: number): Error {
  const reason =
    (word & FLAGS) === ERROR
      ? `the source could not read its ${what}, the stream lacks them`
      : `word ${hex(word)} has no known flag of ${what}`;
  return input.error('corrupt', reason, at);
}

/** Drops the body of section `todclock`. */
export async function skipClock(
  input: StreamInput,
  diagnostics: WarningSink,
): Promise<HandlerSummary> {
  const count = new BodyCount();
  await input.need(1, 'the mark of a clock');
  const mark = input.u8();
  if (mark === CLOCK_MISSING) return count;
  if (mark !== CLOCK_PRESENT) {
    diagnostics.warn(`a clock is marked with ${mark}, not ${CLOCK_PRESENT}`, input.position - 1);
  }
  await input.skip(9, 'the value of a clock');
  count.add(9);
  return count;
}
