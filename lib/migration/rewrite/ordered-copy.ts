import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';
import { GuestWriter, type StreamLayout } from '../guest-writer/guest-writer.ts';
import { MAX_ZERO_RUN } from '../guest-writer/page-copier.ts';
import type { PageTarget } from '../guest-writer/page-target.ts';
import { ZeroRunSplitter } from '../guest-writer/zero-run-splitter.ts';
import type { PassFollower } from '../saved-guest/open-with-pass.ts';
import type { GuestFrame } from '../saved-guest/read-frame.ts';
import { MigrationWriter } from '../writer/migration-writer.ts';
import { renameBlocks } from './rename-blocks.ts';

/** Bytes of pages after which other work of the event loop runs: the ends of writes. */
const TURN_BYTES = 1_048_576;

/**
 * Writes a guest of one round while the pass over its stream goes on. That works where each page comes once and in
 * the order of addresses, as in the save of a stopped guest; where pages have places of their own, their order is
 * free. Otherwise the guest has to be written again, from the places that the pass has found.
 */
export class OrderedCopy implements PassFollower {
  readonly pages: PageVisitor;
  readonly #to: QemuFile;
  readonly #layout: StreamLayout;
  readonly #signal: AbortSignal | undefined;
  readonly #names: ReadonlyMap<string, string> | undefined;
  #blocks: readonly RamBlock[] = [];
  #pageSize = 0;
  #writer: MigrationWriter | null = null;
  #guest: GuestWriter | null = null;
  #target: PageTarget | null = null;
  #splitter: ZeroRunSplitter | null = null;
  #isBroken = false;
  /** The block and the offset in it after the last page. */
  #block = 0;
  #offset = 0;
  #sinceTurn = 0;

  /**
   * @param to - Receives the stream; it is not closed.
   * @param layout - Where its pages lie.
   * @param signal - Ends the work with `ECANCELED`.
   * @param names - New names of RAM blocks, by their old names.
   */
  constructor(
    to: QemuFile,
    layout: StreamLayout,
    signal: AbortSignal | undefined,
    names?: ReadonlyMap<string, string>,
  ) {
    this.#to = to;
    this.#layout = layout;
    this.#signal = signal;
    this.#names = names;
    this.pages = {
      blocks: (blocks, pageSize) => {
        this.#blocks = blocks;
        this.#pageSize = pageSize;
        // A stream whose pages come with the list, or whose page size turns out to be another.
        if (this.#target !== null) this.#isBroken = true;
      },
      page: (block, offset, bytes) => this.#page(block, offset, bytes),
      zero: (block, offset, count) => this.#zero(block, offset, count),
    };
  }

  /** Bytes that were written. */
  get position(): number {
    return this.#writer?.position ?? 0;
  }

  /** @throws {QemuFileError} (rejects) as `renameBlocks`; the error of the file. */
  async begin(frame: GuestFrame): Promise<void> {
    if (this.#isBroken) return;
    const pageSize = this.#pageSize;
    this.#writer = new MigrationWriter(this.#to, { hasFooters: frame.hasFooters, pageSize });
    this.#guest = new GuestWriter(this.#writer, this.#layout, this.#signal);
    const names = this.#names;
    const blocks = names === undefined ? this.#blocks : renameBlocks(this.#blocks, names);
    this.#target = await this.#guest.begin(frame, blocks);
    this.#splitter = new ZeroRunSplitter(this.#target, pageSize);
  }

  ready(): void | Promise<void> {
    if (this.#isBroken || this.#target === null) return;
    if (this.#sinceTurn < TURN_BYTES) return this.#target.ready();
    this.#sinceTurn = 0;
    return this.#turn(this.#target);
  }

  /** Write nothing more: `finish` will return false. */
  stop(): void {
    this.#isBroken = true;
  }

  /**
   * Write the rest of the guest.
   *
   * @param frame - The whole guest.
   * @returns False if the guest could not be written in this way: the bytes written so far are not a whole stream.
   * @throws {QemuFileError} (rejects) the error of the file.
   */
  async finish(frame: GuestFrame): Promise<boolean> {
    const guest = this.#guest;
    if (this.#isBroken || guest === null || guest.lacksSections(frame)) return false;
    // In a mapped-ram file, pages that never came have no places to fill.
    while (this.#layout === 'sequential' && this.#block < this.#blocks.length) {
      const { usedLength } = this.#blocks[this.#block] as RamBlock;
      this.#fill(Math.min(usedLength, this.#offset + MAX_ZERO_RUN * this.#pageSize));
      await this.#target?.ready();
      if (this.#offset === usedLength) this.#nextBlock();
    }
    await guest.end(frame, false);
    return true;
  }

  async #turn(target: PageTarget): Promise<void> {
    void this.#to.flush();
    await new Promise<void>((resolve) => setImmediate(resolve));
    await target.ready();
  }

  #page({ index }: RamBlock, offset: number, bytes: Uint8Array): void {
    if (!this.#moveTo(index, offset, bytes.length)) return;
    this.#sinceTurn += bytes.length;
    const { buffer, byteOffset, length } = bytes;
    if (bytes[0] === 0)
      this.#splitter?.write(index, offset, Buffer.from(buffer, byteOffset, length));
    else this.#target?.page(index, offset, bytes);
  }

  #zero({ index }: RamBlock, offset: number, count: number): void {
    if (this.#moveTo(index, offset, count * this.#pageSize))
      this.#target?.zero(index, offset, count);
  }

  /** Go to the end of pages that come next, and write pages that never came as zeros. */
  #moveTo(block: number, offset: number, length: number): boolean {
    if (this.#isBroken) return false;
    // The pages of a mapped-ram file come with the list of blocks.
    if (this.#target === null) return this.#fail();
    if (block === this.#block && offset === this.#offset) {
      this.#offset = offset + length;
      return true;
    }
    if (this.#layout === 'mapped-ram') return true;
    const isBehind = block < this.#block || (block === this.#block && offset < this.#offset);
    if (isBehind || this.#missing(block, offset) > MAX_ZERO_RUN) return this.#fail();
    while (this.#block < block) {
      this.#fill((this.#blocks[this.#block] as RamBlock).usedLength);
      this.#nextBlock();
    }
    this.#fill(offset);
    this.#offset = offset + length;
    return true;
  }

  #fail(): false {
    this.#isBroken = true;
    return false;
  }

  /** Return the number of pages from the last one up to a place further on. */
  #missing(block: number, offset: number): number {
    let bytes = offset - this.#offset;
    for (let index = this.#block; index < block; index++) {
      bytes += (this.#blocks[index] as RamBlock).usedLength;
    }
    return bytes / this.#pageSize;
  }

  #fill(offset: number): void {
    const count = (offset - this.#offset) / this.#pageSize;
    if (count > 0) this.#target?.zero(this.#block, this.#offset, count);
    this.#offset = offset;
  }

  #nextBlock(): void {
    this.#block += 1;
    this.#offset = 0;
  }
}
