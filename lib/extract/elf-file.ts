import { dirname } from 'node:path';
import type { PageVisitor, RamBlock } from '../migration/format/events.ts';
import { combineVisitors } from '../migration/memory/combine-visitors.ts';
import { elfCore } from '../migration/memory/elf-core.ts';
import { guestMap } from '../migration/memory/guest-map.ts';
import { PlacedStore } from '../migration/memory/page-store.ts';
import { RamImage } from '../migration/memory/ram-image.ts';
import type { Output, Published } from './output.ts';
import { openScratchStore, type ScratchStore } from './scratch-store.ts';
import { SparseOutput } from './sparse-output.ts';

/** Bytes copied at a time. */
const COPY_CHUNK_BYTES = 1_048_576;

/** Write an ELF core of guest memory at its guest-physical addresses. */
export class ElfFile implements Output {
  readonly #path: string;
  readonly #output: SparseOutput;
  readonly #scratch: ScratchStore;
  readonly #image: RamImage;
  readonly visitor: PageVisitor;
  #blocks: readonly RamBlock[] = [];

  private constructor(path: string, output: SparseOutput) {
    this.#path = path;
    this.#output = output;
    this.#scratch = openScratchStore(dirname(path));
    // The position of a block depends on all blocks, which a mapped-ram file lists only after pages of the first.
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
   * @throws {QemuFileError} (rejects) The system's own code.
   */
  static async create(path: string): Promise<ElfFile> {
    return new ElfFile(path, await SparseOutput.create(path));
  }

  async publish(machine: string | null): Promise<Published> {
    const { ranges, architecture, warnings } = guestMap(machine, this.#blocks);
    const note = `Memory of a QEMU guest at its physical addresses, machine type ${machine ?? 'unknown'}, taken from a migration stream by qemu-file. There are no registers in it.`;
    const { header, fileOffsets, length } = elfCore(ranges, { architecture, note });
    this.#output.store.write(0, header);
    const buffer = new Uint8Array(COPY_CHUNK_BYTES);
    for (const block of this.#blocks) {
      const placements = ranges.flatMap((range, index) =>
        range.block === block.name
          ? [{ at: range.at, length: range.length, to: fileOffsets[index] as number }]
          : [],
      );
      const target = new PlacedStore(this.#output.store, placements);
      for (const { at, length: size } of this.#image.extents(block)) {
        for (const { at: from, length: room } of placements) {
          forEachChunk(Math.max(at, from), Math.min(at + size, from + room), (position, wanted) => {
            const part = buffer.subarray(0, wanted);
            this.#image.read(block, position, part);
            target.write(position, part);
          });
        }
      }
    }
    await this.#output.publish(length);
    return { paths: [this.#path], warnings };
  }

  async discard(): Promise<void> {
    this.#image.close();
    this.#scratch[Symbol.dispose]();
    await this.#output.discard();
  }
}

function forEachChunk(from: number, end: number, visit: (at: number, size: number) => void): void {
  for (let at = from; at < end; at += COPY_CHUNK_BYTES) {
    visit(at, Math.min(COPY_CHUNK_BYTES, end - at));
  }
}
