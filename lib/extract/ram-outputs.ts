import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { SparseOutput } from '../../adapters/index.ts';
import type { PageVisitor, RamBlock } from '../migration/format/events.ts';
import { combineVisitors } from '../migration/memory/combine-visitors.ts';
import { elfCore } from '../migration/memory/elf-core.ts';
import { guestMap } from '../migration/memory/guest-map.ts';
import { PlacedStore } from '../migration/memory/page-store.ts';
import { RamImage } from '../migration/memory/ram-image.ts';
import { Digest } from '../util/digest.ts';
import { openScratchStore, type ScratchStore } from './kept-pages.ts';

/** Longest file name that is made of a block's. */
const MAX_NAME = 200;
/** Bytes that are copied at a time. */
const PIECE = 1_048_576;

/** Files that come of a stream's RAM: they appear when all is well, or not at all. */
export interface Output {
  /** Gets the pages. */
  readonly visitor: PageVisitor;
  /**
   * Gives the files their names, once the stream is over and sound.
   *
   * @returns Their paths, and what a person should know.
   */
  publish(machine: string | null): Promise<{ paths: string[]; warnings: readonly string[] }>;
  /** Removes what was written, unless it was published. */
  discard(): Promise<void>;
}

/** Contents of some blocks, each in a file of its own; holes are where pages are zeros. */
export class BlockFiles implements Output {
  readonly #pathOf: (block: RamBlock) => string | null;
  readonly #files = new Map<string, { output: SparseOutput; path: string; length: number }>();
  readonly #image: RamImage;
  readonly visitor: PageVisitor;

  /** @param pathOf - Null for a block that is not wanted. */
  constructor(pathOf: (block: RamBlock) => string | null) {
    this.#pathOf = pathOf;
    const image = new RamImage({
      store: ({ name }) => this.#files.get(name)?.output.store ?? null,
    });
    this.#image = image;
    const opener: PageVisitor = {
      blocks: async (blocks) => {
        for (const block of blocks) await this.#open(block);
      },
    };
    this.visitor = combineVisitors([opener, image]);
  }

  async #open(block: RamBlock): Promise<void> {
    const path = this.#pathOf(block);
    if (path === null || this.#files.has(block.name)) return;
    const output = await SparseOutput.create(path);
    this.#files.set(block.name, { output, path, length: block.usedLength });
  }

  async publish(): Promise<{ paths: string[]; warnings: readonly string[] }> {
    const paths: string[] = [];
    for (const { output, path, length } of this.#files.values()) {
      await output.publish(length);
      paths.push(path);
    }
    this.#files.clear();
    return { paths, warnings: [] };
  }

  async discard(): Promise<void> {
    this.#image.close();
    for (const { output } of this.#files.values()) await output.discard();
    this.#files.clear();
  }
}

/** Contents of all blocks, in a directory; their names are escaped, for they come from the stream. */
export async function blockFilesIn(directory: string): Promise<Output> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  return new BlockFiles(({ name }) => join(directory, `${fileNameOf(name)}.raw`));
}

/**
 * Makes a file name of any text, a different one for each: letters, digits, `.`, `_` and `-` stay, but not
 * in front; a long one is cut and gets a digest. To be used once `loadDigest` is done.
 */
export function fileNameOf(name: string): string {
  const percent = (char: string): string =>
    Array.from(Buffer.from(char), (byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');
  const escaped = name.replace(/[^A-Za-z0-9._-]/gu, percent).replace(/^[.-]/, percent);
  if (escaped.length <= MAX_NAME) return escaped;
  const digest = new Digest();
  digest.update(Buffer.from(name));
  return `${escaped.slice(0, MAX_NAME)}%${digest.hex()}`;
}

/** An ELF core of the guest's memory at its physical addresses. */
export class ElfFile implements Output {
  readonly #path: string;
  readonly #output: SparseOutput;
  readonly #kept: ScratchStore;
  readonly #image: RamImage;
  readonly visitor: PageVisitor;
  #blocks: readonly RamBlock[] = [];

  private constructor(path: string, output: SparseOutput) {
    this.#path = path;
    this.#output = output;
    this.#kept = openScratchStore(dirname(path));
    // Where a block goes depends on all of them, and in mapped-ram files pages come in between.
    const image = new RamImage({ store: this.#kept.store });
    this.#image = image;
    const noter: PageVisitor = {
      blocks: (blocks) => {
        this.#blocks = blocks;
      },
    };
    this.visitor = combineVisitors([noter, image]);
  }

  static async create(path: string): Promise<ElfFile> {
    return new ElfFile(path, await SparseOutput.create(path));
  }

  async publish(machine: string | null): Promise<{ paths: string[]; warnings: readonly string[] }> {
    const { ranges, architecture, warnings } = guestMap(machine, this.#blocks);
    const note = `Memory of a QEMU guest at its physical addresses, machine type ${machine ?? 'unknown'}, taken from a migration stream by qemu-file. There are no registers in it.`;
    const { header, fileOffsets, length } = elfCore(ranges, { architecture, note });
    this.#output.store.write(0, header);
    const buffer = new Uint8Array(PIECE);
    for (const block of this.#blocks) {
      const pieces = ranges.flatMap((range, index) =>
        range.block === block.name
          ? [{ at: range.at, length: range.length, to: fileOffsets[index] as number }]
          : [],
      );
      const target = new PlacedStore(this.#output.store, pieces);
      for (const { at, length: size } of this.#image.extents(block)) {
        for (const { at: from, length: room } of pieces) {
          copy(Math.max(at, from), Math.min(at + size, from + room), (position, wanted) => {
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
    this.#kept[Symbol.dispose]();
    await this.#output.discard();
  }
}

/** Goes through a range in pieces. */
function copy(from: number, end: number, piece: (at: number, size: number) => void): void {
  for (let at = from; at < end; at += PIECE) piece(at, Math.min(PIECE, end - at));
}
