import type { MigrationEvent, Section } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import type { MultifdChannels } from '../multifd/multifd-channels.ts';
import { type BlockListLayout, readBlockList } from './block-list.ts';
import { MappedRam } from './mapped-ram.ts';
import { RamRecords } from './ram-records.ts';
import type { RamTable } from './ram-table.ts';

/** The only version there is. */
const RAM_VERSION = 4;

/** The only page size below the usual one that a block may have a whole number of. */
const SMALL_PAGE = 1024;

/** What the stream said before about its RAM. */
export interface RamContext extends Omit<BlockListLayout, 'mapped'> {
  /** Whether pages lie at places of their own in the file. */
  isMapped: boolean;
  /** Where in its file the stream begins. */
  fileOffset: number;
}

/** The bodies of a stream's RAM sections, and what they have to do with its other channels. */
export class RamSections {
  readonly #table: RamTable;
  readonly #channels: MultifdChannels | null;
  #input: StreamInput | null = null;
  #records: RamRecords | null = null;
  #hasList = false;
  /** Whether channels are waited for at words of their own, and not wherever records stop. */
  #hasFlushes = false;

  /** @param channels - The multifd channels, if they are at hand. */
  constructor(table: RamTable, channels: MultifdChannels | null) {
    this.#table = table;
    this.#channels = channels;
  }

  /**
   * Reads a body: of START, PART and END alike.
   *
   * @throws {MigrationStreamError} (rejects) as `RamRecords`, `readBlockList` and the channels.
   */
  async *read(
    input: StreamInput,
    section: Section,
    context: RamContext,
  ): AsyncGenerator<MigrationEvent, void> {
    if (section.versionId !== RAM_VERSION) {
      const reason = `RAM of version ${section.versionId}, not ${RAM_VERSION}`;
      throw input.error('unsupported', reason, section.offset);
    }
    if (section.instanceId !== 0) {
      const reason = `RAM of instance ${section.instanceId}, not 0`;
      throw input.error('corrupt', reason, section.offset);
    }
    const records = this.#recordsOf(input);
    for (;;) {
      const mark = await records.run();
      if (mark === 'end') {
        throw input.error('truncated', 'the stream ends between two RAM records');
      }
      if (mark === 'blocks') {
        yield await this.#list(input, section, records.total, context);
      } else if (mark === 'flush') {
        this.#hasFlushes = true;
        this.#table.usesMultifd = true;
        await this.#sync(true);
      } else {
        if (!this.#hasFlushes) await this.#sync(false);
        return;
      }
    }
  }

  /** Reads the records of a channel that has nothing else, up to its end. */
  async readBare(input: StreamInput): Promise<void> {
    const mark = await new RamRecords(input, this.#table).run();
    if (mark === 'end' || mark === 'eos') return;
    throw input.error('corrupt', 'a channel of postcopy pages has other RAM records');
  }

  /** A record that continues a block means the one before on the same channel. */
  #recordsOf(input: StreamInput): RamRecords {
    if (this.#records === null || this.#input !== input) {
      this.#input = input;
      this.#records = new RamRecords(input, this.#table);
    }
    return this.#records;
  }

  async #list(
    input: StreamInput,
    section: Section,
    total: number,
    context: RamContext,
  ): Promise<MigrationEvent> {
    const table = this.#table;
    const offset = input.position - 8;
    if (section.kind !== 'start' || this.#hasList) {
      throw input.error('corrupt', 'a second list of RAM blocks', offset);
    }
    this.#hasList = true;
    const mapped = context.isMapped ? new MappedRam(input, table, context.fileOffset) : null;
    const layout: BlockListLayout = {
      ...context,
      mapped: mapped === null ? null : (block) => mapped.read(block),
    };
    const blocks = await readBlockList(input, total, layout, table);
    const isSmall = blocks.some(({ usedLength }) => usedLength % table.pageSize !== 0);
    if (isSmall) await table.setPageSize(SMALL_PAGE, offset);
    await table.list(blocks);
    if (mapped?.isBlank === true) {
      table.diagnostics.warn(
        'no page is there by any bitmap: the save may never have been finished',
        offset,
      );
    }
    if (this.#channels !== null) table.expectChannels();
    this.#channels?.start(table);
    return { type: 'ramBlocks', offset, section, blocks, pageSize: table.pageSize };
  }

  /**
   * Waits until all channels have delivered what belongs before this place.
   *
   * @param endsRound - Whether QEMU has gone through all blocks, or nothing tells.
   */
  async #sync(endsRound: boolean): Promise<void> {
    await this.#channels?.sync(() => this.#table.syncRound(endsRound));
  }
}
