import { QemuFileError } from '../../../contract/errors.ts';
import type { PageVisitor, RamBlock } from '../../../migration/format/events.ts';
import { applyXbzrle, xbzrleFault } from '../../../migration/ram/xbzrle.ts';
import { type PageChange, PageQueue } from './page-queue.ts';
import { PageTable } from './page-table.ts';

/*
 * The number of a page in the table is
 *   0                     it is zeros, or did not come;
 *   stored page + 1       it is stored there;
 *   PENDING + ticket      its last arrival waits in the queue.
 */

const PENDING = 0x8000_0000;

/** The block of a page, as the intake needs it. */
export interface IntakeBlock {
  readonly name: string;
  readonly usedLength: number;
  readonly hostPageSize: number | null;
  readonly address: bigint | null;
  /** Number of its first page, counted through all blocks. */
  readonly first: number;
}

/** Takes the pages of a stream: the last arrival of a page counts. */
export class PageIntake implements PageVisitor {
  readonly table: PageTable = new PageTable();
  readonly queue: PageQueue = new PageQueue();
  #pageSize = 0;
  #blocks: IntakeBlock[] = [];
  #ticket = 0;
  #zeros: Buffer = Buffer.alloc(0);
  #arrived = 0;

  get pageSize(): number {
    return this.#pageSize;
  }

  get blockList(): readonly IntakeBlock[] {
    return this.#blocks;
  }

  /** Bytes of guest memory that have arrived, zeros included. */
  get arrivedBytes(): number {
    return this.#arrived;
  }

  blocks(blocks: readonly Omit<RamBlock, 'index' | 'pages'>[], pageSize: number): void {
    if (pageSize !== this.#pageSize) {
      if (this.#ticket > 0) {
        const reason = `pages of ${this.#pageSize} bytes came before the stream said that a page has ${pageSize}`;
        throw new QemuFileError('ENOTSUP', reason, { operation: 'writeSnapshot' });
      }
      this.#pageSize = pageSize;
      this.#zeros = Buffer.alloc(pageSize);
      this.queue.setPageSize(pageSize);
    }
    let first = 0;
    this.#blocks = blocks.map(({ name, usedLength, hostPageSize, address }) => {
      const block = { name, usedLength, hostPageSize, address, first };
      first += Math.ceil(usedLength / pageSize);
      return block;
    });
  }

  page({ index }: { readonly index: number }, offset: number, bytes: Uint8Array): void {
    const size = this.#pageSize;
    const from = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    let page = (this.#blocks[index] as IntakeBlock).first + offset / size;
    this.#arrived += bytes.length;
    for (let at = 0; at < bytes.length; at += size, page++) {
      if (this.#isZeros(from, at)) {
        this.table.set(page, 0);
        continue;
      }
      const batch = this.queue.batch();
      from.copy(batch.bytes, batch.count * size, at, at + size);
      this.#enter(page);
    }
  }

  zero({ index }: { readonly index: number }, offset: number, count: number): void {
    const page = (this.#blocks[index] as IntakeBlock).first + offset / this.#pageSize;
    this.#arrived += count * this.#pageSize;
    if (count === 1) this.table.set(page, 0);
    else this.table.clear(page, page + count);
  }

  xbzrle({ index }: { readonly index: number }, offset: number, encoded: Uint8Array): void {
    const fault = xbzrleFault(encoded, this.#pageSize);
    if (fault !== null) throw new QemuFileError('EBADMSG', fault, { operation: 'xbzrle' });
    const size = this.#pageSize;
    const page = (this.#blocks[index] as IntakeBlock).first + offset / size;
    this.#arrived += size;
    const number = this.table.get(page);
    const waiting = number >= PENDING ? this.queue.locate(number - PENDING) : null;
    const earlier = waiting?.batch.changes.get(waiting.place);
    if (waiting !== null && earlier === undefined) {
      const at = waiting.place * size;
      applyXbzrle(waiting.batch.bytes.subarray(at, at + size), encoded);
      return;
    }
    let base: number | PageChange = earlier ?? number;
    if (earlier === undefined && number >= PENDING) base = this.#taken(number - PENDING);
    const batch = this.queue.batch();
    batch.changes.set(batch.count, { base, encoded: Uint8Array.from(encoded), result: null });
    this.#enter(page);
  }

  /** Return the contents of an arrival whose batch is being stored. */
  #taken(ticket: number): PageChange {
    const contents = this.contentsOf(ticket);
    if (contents === null) throw new Error('the page is neither waiting nor being stored');
    return contents;
  }

  /** Returns the contents of an arrival that is being stored. */
  contentsOf: (ticket: number) => PageChange | null = () => null;

  /** Return whether this arrival of a page is the last one. */
  isLatest(page: number, ticket: number): boolean {
    return this.table.get(page) === PENDING + ticket;
  }

  /** The next page in the open batch is this one. */
  #enter(page: number): void {
    const batch = this.queue.batch();
    const ticket = this.#ticket;
    this.#ticket = (ticket + 1) % PENDING;
    batch.pages[batch.count] = page;
    batch.tickets[batch.count] = ticket;
    batch.count += 1;
    this.table.set(page, PENDING + ticket);
  }

  #isZeros(bytes: Buffer, at: number): boolean {
    if (bytes[at] !== 0 || bytes[at + 8] !== 0) return false;
    return bytes.compare(this.#zeros, 0, this.#pageSize, at, at + this.#pageSize) === 0;
  }
}
