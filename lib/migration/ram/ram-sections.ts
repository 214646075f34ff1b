import type { MigrationEvent, Section } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import type { MultifdChannels } from '../multifd/multifd-channels.ts';
import { type BlockListLayout, readBlockList } from './block-list.ts';
import { MappedRam } from './mapped-ram.ts';
import { RamRecords } from './ram-records.ts';
import type { GuestRam } from './ram-table.ts';

/** The only version of a RAM section. */
const RAM_VERSION = 4;

/** The only page size below the default that a block may be a whole number of. */
const SMALL_PAGE_SIZE = 1024;

/** Facts about the RAM that the stream contains before the first RAM section. */
export interface RamContext extends Omit<BlockListLayout, 'mapped'> {
  /** Whether the stream has the capability mapped-ram. */
  isMapped: boolean;
  /** Offset in its file of the stream's first byte. */
  fileOffset: number;
}

/** Reads the bodies of a stream's RAM sections, and keeps the multifd channels in step with them. */
export class RamSections {
  readonly #ram: GuestRam;
  readonly #channels: MultifdChannels | null;
  #input: StreamInput | null = null;
  #records: RamRecords | null = null;
  #hasList = false;
  /** Whether MULTIFD_FLUSH records mark where to wait for the channels. Without them every EOS does. */
  #hasFlushes = false;

  /** @param channels - The multifd channels, if the caller has them. */
  constructor(ram: GuestRam, channels: MultifdChannels | null) {
    this.#ram = ram;
    this.#channels = channels;
  }

  /**
   * Read the body of a START, PART or END section.
   *
   * @throws {MigrationStreamError} (rejects) as `RamRecords`, `readBlockList` and the channels.
   */
  async *read(
    input: StreamInput,
    section: Section,
    context: RamContext,
  ): AsyncGenerator<MigrationEvent, void> {
    if (section.versionId !== RAM_VERSION) {
      const reason = `RAM section of version ${section.versionId}, not ${RAM_VERSION}`;
      throw input.error('unsupported', reason, section.offset);
    }
    if (section.instanceId !== 0) {
      const reason = `RAM section of instance ${section.instanceId}, not 0`;
      throw input.error('corrupt', reason, section.offset);
    }
    const records = this.#recordsOf(input);
    for (;;) {
      const mark = await records.run();
      if (mark === 'end') {
        throw input.error('truncated', 'the stream ends between two RAM records');
      }
      if (mark === 'blocks') {
        yield await this.#readList(input, section, records.listedBytes, context);
      } else if (mark === 'flush') {
        this.#hasFlushes = true;
        this.#ram.expectMultifd();
        await this.#sync(true);
      } else {
        if (!this.#hasFlushes) await this.#sync(false);
        return;
      }
    }
  }

  /** Read the postcopy-preempt channel, which has only RAM records, up to its end. */
  async readPostcopyChannel(input: StreamInput): Promise<void> {
    const mark = await new RamRecords(input, this.#ram).run();
    if (mark === 'end' || mark === 'eos') return;
    throw input.error('corrupt', 'the postcopy channel has RAM records other than pages');
  }

  /** A record with CONTINUE refers to the previous record of the same channel, so each keeps its parser. */
  #recordsOf(input: StreamInput): RamRecords {
    if (this.#records === null || this.#input !== input) {
      this.#input = input;
      this.#records = new RamRecords(input, this.#ram);
    }
    return this.#records;
  }

  async #readList(
    input: StreamInput,
    section: Section,
    totalBytes: number,
    context: RamContext,
  ): Promise<MigrationEvent> {
    const ram = this.#ram;
    const { blockTable, roundCounter, dispatch } = ram;
    const offset = input.position - 8;
    if (section.kind !== 'start' || this.#hasList) {
      throw input.error('corrupt', 'second list of RAM blocks', offset);
    }
    this.#hasList = true;
    const mapped = context.isMapped ? new MappedRam(input, ram, context.fileOffset) : null;
    const layout: BlockListLayout = {
      ...context,
      mapped: mapped === null ? null : (block) => mapped.read(block),
    };
    const blocks = await readBlockList(input, totalBytes, layout, ram);
    const isSmall = blocks.some(({ usedLength }) => usedLength % ram.pageSize !== 0);
    if (isSmall) await blockTable.setPageSize(SMALL_PAGE_SIZE, offset);
    await blockTable.setBlocks(blocks);
    if (mapped?.isBlank === true) {
      const reason = 'the bitmaps of all RAM blocks are empty: the save may not have been finished';
      ram.diagnostics.warn(reason, offset);
    }
    if (this.#channels !== null) roundCounter.expectChannels();
    this.#channels?.start({ blockTable, dispatch });
    return { type: 'ramBlocks', offset, section, blocks, pageSize: ram.pageSize };
  }

  /**
   * Wait until all channels have delivered the pages that belong before this place.
   *
   * @param endsRound - Whether QEMU has gone through all blocks here.
   */
  async #sync(endsRound: boolean): Promise<void> {
    await this.#channels?.sync(() => this.#ram.roundCounter.sync(endsRound));
  }
}
