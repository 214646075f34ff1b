import { dirname } from 'node:path';
import type { MigrationEvent, PageVisitor, RamBlock } from '../migration/format/events.ts';
import { MigrationStreamError } from '../migration/format/stream-error.ts';
import { combineVisitors } from '../migration/memory/combine-visitors.ts';
import { elfCore } from '../migration/memory/elf-core.ts';
import { type GuestMap, type GuestMapOptions, guestMap } from '../migration/memory/guest-map.ts';
import { LayoutFacts } from '../migration/memory/layout-facts.ts';
import { RamImage } from '../migration/memory/ram-image.ts';
import { quote } from '../util/format.ts';
import type { Output, Published } from './output.ts';
import { openScratchStore, type ScratchStore } from './scratch-store.ts';
import { SparseOutput } from './sparse-output.ts';

/** Bytes copied at a time. */
const COPY_CHUNK_BYTES = 1_048_576;

/** Format of a file of guest memory: an ELF core, or a raw image in which a file offset is an address. */
export type GuestMemoryFormat = 'elf' | 'flat';

/** Options of `GuestMemoryFile.create`. */
export interface GuestMemoryOptions extends Omit<GuestMapOptions, 'facts'> {
  /** Leave out blocks of guest memory whose addresses are unknown. Default false: refuse. */
  allowMissing?: boolean | undefined;
}

/** Writes guest memory at its guest-physical addresses to a sparse file. */
export class GuestMemoryFile implements Output {
  readonly #path: string;
  readonly #format: GuestMemoryFormat;
  readonly #options: GuestMemoryOptions;
  readonly #output: SparseOutput;
  readonly #scratch: ScratchStore;
  readonly #image: RamImage;
  readonly #facts = new LayoutFacts();
  readonly visitor: PageVisitor;
  #blocks: readonly RamBlock[] = [];
  #map: GuestMap | null = null;

  private constructor(
    path: string,
    format: GuestMemoryFormat,
    options: GuestMemoryOptions,
    output: SparseOutput,
  ) {
    this.#path = path;
    this.#format = format;
    this.#options = options;
    this.#output = output;
    this.#scratch = openScratchStore(dirname(path));
    // The address of a block depends on all blocks and on device state, which follows the pages.
    const image = new RamImage({ store: this.#scratch.store });
    this.#image = image;
    const blockList: PageVisitor = {
      blocks: (blocks) => {
        this.#blocks = blocks;
      },
    };
    this.visitor = combineVisitors([blockList, image]);
  }

  /**
   * Create the output; the file gets its name when it is published.
   *
   * @param format - `elf` for an ELF core (see `elfCore`), `flat` for a raw image of physical memory.
   * @throws {QemuFileError} (rejects) The system's own code.
   */
  static async create(
    path: string,
    format: GuestMemoryFormat,
    options: GuestMemoryOptions = {},
  ): Promise<GuestMemoryFile> {
    return new GuestMemoryFile(path, format, options, await SparseOutput.create(path));
  }

  onEvent(event: MigrationEvent): void {
    this.#facts.add(event);
  }

  /**
   * Find the address of each block.
   *
   * @throws {MigrationStreamError} `unsupported` if a block of guest memory has no known address, unless
   *   `allowMissing` is set, or if no block has one.
   * @throws {QemuFileError} `EINVAL` if `at` or `nodes` do not fit the stream.
   */
  prepare(machine: string | null): void {
    const map = guestMap(machine, this.#blocks, { ...this.#options, facts: this.#facts });
    this.#map = map;
    const isEmpty = map.ranges.length === 0;
    if (map.unplaced.length === 0 && !isEmpty) return;
    if (this.#options.allowMissing === true && !isEmpty) return;
    const missing = map.unplaced.map(({ block, reason }) => `${quote(block)}: ${reason}`);
    const hint = isEmpty ? [] : ['or leave out what cannot be placed with --allow-missing'];
    const reasons = missing.length > 0 ? missing : map.warnings;
    const reason = `guest memory cannot be placed: ${[...reasons, ...hint].join('; ')}`;
    throw new MigrationStreamError('unsupported', reason, {});
  }

  async publish(machine: string | null): Promise<Published> {
    if (this.#map === null) this.prepare(machine);
    const { ranges, architecture, unplaced, warnings } = this.#map as GuestMap;
    let offsets = ranges.map(({ address }) => address);
    const last = ranges.at(-1);
    let length = last === undefined ? 0 : last.address + last.length;
    if (this.#format === 'elf') {
      const note = `Memory of a QEMU guest at its physical addresses, machine type ${machine ?? 'unknown'}, taken from a migration stream by qemu-file. There are no registers in it.`;
      const core = elfCore(ranges, { architecture, note });
      this.#output.store.write(0, core.header);
      offsets = [...core.fileOffsets];
      length = core.length;
    }
    const blocks = new Map(this.#blocks.map((block) => [block.name, block]));
    for (const [index, range] of ranges.entries()) {
      const block = blocks.get(range.block) as RamBlock;
      this.#copy(block, range, offsets[index] as number);
    }
    await this.#output.publish(length);
    const left = unplaced.map(({ block, reason }) => `${quote(block)} is left out: ${reason}`);
    return { paths: [this.#path], warnings: [...warnings, ...left] };
  }

  async discard(): Promise<void> {
    this.#image.close();
    this.#scratch[Symbol.dispose]();
    await this.#output.discard();
  }

  /** Copy the pages of a part of a block that are not zeros. */
  #copy(block: RamBlock, part: { at: number; length: number }, fileOffset: number): void {
    const buffer = new Uint8Array(COPY_CHUNK_BYTES);
    const partEnd = part.at + part.length;
    for (const extent of this.#image.extents(block)) {
      const end = Math.min(extent.at + extent.length, partEnd);
      for (let at = Math.max(extent.at, part.at); at < end; at += COPY_CHUNK_BYTES) {
        const chunk = buffer.subarray(0, Math.min(COPY_CHUNK_BYTES, end - at));
        this.#image.read(block, at, chunk);
        this.#output.store.write(fileOffset + at - part.at, chunk);
      }
    }
  }
}
