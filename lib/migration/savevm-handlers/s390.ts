import { hex } from '../../util/format.ts';
import type { WarningSink } from '../format/diagnostics.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, LIMIT } from '../format/wire.ts';
import { BodyCount, type HandlerSummary, readLength } from './body.ts';

/** The bits of a word below the address. */
const FLAG_MASK = 0xfffn;
/** Flags of both sections. Words without data have address 0. */
const EOS = 0x01n;
const DATA = 0x02n;
const ERROR = 0x04n;
const DONE = 0x08n;

/** Longest piece of storage attributes in bytes. */
const MAX_ATTRIBUTE_BYTES = 524_288;
/** Bytes of all storage keys: one for each page. */
const MAX_KEY_BYTES: number = LIMIT.RAM / 4096;

const CLOCK_MISSING = 0;
const CLOCK_PRESENT = 1;

/** Skip a body of section `s390-storage_attributes`. */
export async function skipStorageAttributes(input: StreamInput): Promise<HandlerSummary> {
  const count = new BodyCount();
  let isDone = false;
  for (;;) {
    await input.need(1, 'a word of storage attributes');
    // QEMU may leave out EOS after DONE. No word begins with the byte of a footer: no address is so large.
    if (isDone && input.file.peekByte(0) === ITEM.FOOTER) return count;
    await input.need(8, 'a word of storage attributes');
    const at = input.position;
    const word = input.be64();
    if (word === EOS) return count;
    if (word === DONE) {
      isDone = true;
    } else if ((word & FLAG_MASK) === DATA) {
      const length = await readLength(input, 'storage attributes', MAX_ATTRIBUTE_BYTES);
      await input.skip(length, 'storage attributes');
      count.add(length);
    } else {
      throw badWord(input, word, 'storage attributes', at);
    }
  }
}

/** Skip the body of section `s390-skeys`. */
export async function skipStorageKeys(input: StreamInput): Promise<HandlerSummary> {
  const count = new BodyCount();
  for (;;) {
    await input.need(8, 'a word of storage keys');
    const at = input.position;
    const word = input.be64();
    if (word === EOS) return count;
    if ((word & FLAG_MASK) !== DATA) throw badWord(input, word, 'storage keys', at);
    const length = await readLength(input, 'storage keys', MAX_KEY_BYTES);
    await input.skip(length, 'storage keys');
    count.add(length);
  }
}

function badWord(input: StreamInput, word: bigint, what: string, at: number): Error {
  const reason =
    (word & FLAG_MASK) === ERROR
      ? `the source failed to read its ${what}, and the stream lacks them`
      : `word ${hex(word, 16)} has unknown flags for ${what}`;
  return input.error('corrupt', reason, at);
}

/** Skip the body of section `todclock`. */
export async function skipClock(
  input: StreamInput,
  diagnostics: WarningSink,
): Promise<HandlerSummary> {
  const count = new BodyCount();
  await input.need(1, 'the mark of a clock');
  const mark = input.u8();
  if (mark === CLOCK_MISSING) return count;
  if (mark !== CLOCK_PRESENT) {
    diagnostics.warn(`the mark of the clock is ${mark}, not ${CLOCK_PRESENT}`, input.position - 1);
  }
  await input.skip(9, 'the value of a clock');
  count.add(9);
  return count;
}
