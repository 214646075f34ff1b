import type { StreamInput } from '../format/stream-input.ts';
import { LIMIT } from '../format/wire.ts';

/** Contents of the body of a live section. */
export interface HandlerSummary {
  /** Number of records, without the mark that ends the body. */
  readonly records: number;
  /** Bytes of payload in these records. */
  readonly bytes: number;
}

/** Builds a summary, record by record. */
export class BodyCount implements HandlerSummary {
  records = 0;
  bytes = 0;

  add(bytes: number): void {
    this.records += 1;
    this.bytes += bytes;
  }
}

/**
 * Read a be64 length.
 *
 * @param what - Noun phrase for the bytes that have this length, for errors.
 * @param maxBytes - Largest valid length.
 * @throws {MigrationStreamError} (rejects) `truncated`; `corrupt` for a larger length.
 */
export async function readLength(
  input: StreamInput,
  what: string,
  maxBytes: number = LIMIT.RAM,
): Promise<number> {
  await input.need(8, `the length of ${what}`);
  const length = input.be64();
  if (length <= maxBytes) return Number(length);
  const reason = `${length} bytes of ${what}, more than ${maxBytes}`;
  throw input.error('corrupt', reason, input.position - 8);
}
