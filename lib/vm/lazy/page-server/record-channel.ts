import { RAM_FLAG } from '../../../migration/format/wire.ts';
import type { PageSource } from '../../../migration/page-source/page-source.ts';
import { type PageBatch, WORD_BYTES } from './page-batch.ts';
import type { PageSink } from './page-server-types.ts';

const TWO_32 = 0x1_0000_0000;

/** Writes RAM records to one channel. The first record of a block has the block's name, the next ones continue it. */
export class RecordChannel {
  readonly #sink: PageSink;
  readonly #names: readonly Buffer[];
  readonly #pageSize: number;
  #lastBlock = -1;

  constructor(sink: PageSink, { blocks, pageSize }: PageSource) {
    this.#sink = sink;
    this.#pageSize = pageSize;
    this.#names = blocks.map(({ name }) => {
      const bytes = Buffer.from(name);
      return Buffer.concat([Buffer.of(bytes.length), bytes]);
    });
  }

  /**
   * Put the record of a page into the batch that holds the page. Records must be written in the order in which they
   * are put.
   *
   * @param at - Where in the records of the batch this one begins.
   * @param page - The page's number in its block.
   * @param isZero - Whether the page is sent as zeros.
   * @returns Where the next record begins.
   */
  put(batch: PageBatch, at: number, page: number, isZero: boolean): number {
    const { block, records } = batch;
    const pageSize = this.#pageSize;
    const isNext = block === this.#lastBlock;
    const flags = (isZero ? RAM_FLAG.ZERO : RAM_FLAG.PAGE) + (isNext ? RAM_FLAG.CONTINUE : 0);
    const word = page * pageSize + flags;
    const high = Math.floor(word / TWO_32);
    records.writeUInt32BE(high, at);
    records.writeUInt32BE(word - high * TWO_32, at + 4);
    let next = at + WORD_BYTES;
    if (!isNext) {
      const name = this.#names[block] as Buffer;
      records.set(name, next);
      next += name.length;
      this.#lastBlock = block;
    }
    if (isZero) {
      records[next] = 0;
      return next + 1;
    }
    const from = (page - batch.page) * pageSize;
    batch.pages.copy(records, next, from, from + pageSize);
    return next + pageSize;
  }

  write(records: Uint8Array): Promise<void> {
    return this.#sink.write(records);
  }

  /** Resolve once the destination has loaded the records or, if it cannot tell, once the transport has taken them. */
  writeUntilLoaded(records: Uint8Array): Promise<void> {
    return this.#sink.writeUntilLoaded?.(records) ?? this.#sink.write(records);
  }
}
