import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import type { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import type { DestinationMemory } from './destination-memory.ts';

/** Sends the pages with data in the order of addresses, and those that are asked for before them. */
export class SimplePageServer {
  requests = 0;
  bytes = 0;
  readonly total: number;
  readonly #guest: SavedGuest;
  readonly #memory: DestinationMemory;
  readonly #writer: MigrationWriter;
  readonly #sent: Set<number>[];
  readonly #queue: { block: number; offset: number; length: number }[] = [];
  constructor(guest: SavedGuest, memory: DestinationMemory, writer: MigrationWriter) {
    this.#guest = guest;
    this.#memory = memory;
    this.#writer = writer;
    this.#sent = memory.blocks.map(() => new Set());
    this.total = memory.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
  }
  request(block: number, offset: number, length: number): void {
    this.requests += 1;
    this.#queue.push({ block, offset, length });
  }
  async run(): Promise<void> {
    for (const [block, { hostPageSize }] of this.#memory.blocks.entries()) {
      for (const { at, length } of this.#guest.pages.extents(block)) {
        const end = Math.ceil((at + length) / hostPageSize) * hostPageSize;
        for (let offset = at - (at % hostPageSize); offset < end; offset += hostPageSize) {
          await this.#serve();
          await this.#send(block, offset, hostPageSize);
        }
      }
    }
    await this.#serve();
  }
  async #serve(): Promise<void> {
    for (;;) {
      const next = this.#queue.shift();
      if (next === undefined) return;
      await this.#send(next.block, next.offset, next.length);
    }
  }
  async #send(block: number, offset: number, length: number): Promise<void> {
    if (this.#sent[block]?.has(offset)) return;
    this.#sent[block]?.add(offset);
    const bytes = Buffer.alloc(length);
    await this.#guest.pages.read(block, offset, bytes);
    this.#writer.ram.page(block, offset, bytes);
    this.bytes += length;
    await this.#writer.file.flush();
  }
}
