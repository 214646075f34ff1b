import { RAM_FLAG } from '../format/wire.ts';

/** Bytes of a record: a be64 and the byte that is repeated. */
const RECORD_BYTES = 9;
/** Most records that are encoded at a time. */
export const MAX_ZERO_RECORDS = 256;
const TWO_TO_32 = 2 ** 32;

/** Encodes ZERO records that continue their block: several at a time cost a fraction of one put each. */
export class ZeroRecords {
  readonly #bytes = new Uint8Array(MAX_ZERO_RECORDS * RECORD_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);

  /**
   * Return the records of adjacent pages; they are valid until the next call.
   *
   * @param offset - Byte offset in the block of the first page; a multiple of the page size.
   * @param pageSize - Bytes of a page.
   * @param count - Number of pages, up to `MAX_ZERO_RECORDS`.
   * @param fill - The byte that is repeated.
   */
  encode(offset: number, pageSize: number, count: number, fill: number): Uint8Array {
    const view = this.#view;
    let high = Math.floor(offset / TWO_TO_32);
    let low = (offset % TWO_TO_32) + (RAM_FLAG.ZERO | RAM_FLAG.CONTINUE);
    const end = count * RECORD_BYTES;
    for (let at = 0; at < end; at += RECORD_BYTES) {
      view.setUint32(at, high);
      view.setUint32(at + 4, low);
      view.setUint8(at + 8, fill);
      low += pageSize;
      if (low < TWO_TO_32) continue;
      low -= TWO_TO_32;
      high++;
    }
    return this.#bytes.subarray(0, end);
  }
}
