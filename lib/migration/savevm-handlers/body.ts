import type { StreamInput } from '../format/stream-input.ts';
import { LIMIT } from '../format/wire.ts';

/** What was in the body of a section that is not described. */
export interface HandlerSummary {
  /** Records, without the mark that ends the body. */
  readonly records: number;
  /** Bytes of the payload of these records. */
  readonly bytes: number;
}

/** Counts up what becomes a summary. */
export class BodyCount implements HandlerSummary {
  records = 0;
  bytes = 0;

  add(bytes: number): void {
    this.records += 1;
    this.bytes += bytes;
  }
}

/**
 * Waits for a be64 length and gets it.
 *
 * @param what - What is as long as that.
 * @param most - Beyond it the stream is corrupt.
 */
export async function lengthOf(
  input: StreamInput,
  what: string,
  most: number = LIMIT.RAM,
): Promise<number> {
  await input.need(8, `the length of ${what}`);
  const length = input.be64();
  if (length <= most) return Number(length);
  throw input.error(
    'corrupt',
    `${length} bytes of ${what} are more than ${most}`,
    input.position - 8,
  );
}

/** A word for an error. */
export function hex(word: bigint | number, digits = 16): string {
  return `0x${word.toString(16).padStart(digits, '0')}`;
}
