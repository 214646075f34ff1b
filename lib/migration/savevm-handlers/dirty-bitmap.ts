import { hex } from '../../util/format.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { BodyCount, type HandlerSummary, readLength } from './body.ts';

/** Flags of a chunk. @see QEMU `DIRTY_BITMAP_MIG_FLAG_…` in migration/block-dirty-bitmap.c */
const FLAG = {
  EOS: 0x01,
  ZEROES: 0x02,
  BITMAP_NAME: 0x04,
  DEVICE_NAME: 0x08,
  START: 0x10,
  COMPLETE: 0x20,
  BITS: 0x40,
  EXTRA: 0x80,
} as const;

/** A chunk has one of these, or none if it only ends the body. */
const ACTIONS = FLAG.START | FLAG.COMPLETE | FLAG.BITS;
/** The defined flags of a bitmap: enabled, persistent, and one that is ignored. */
const BITMAP_FLAGS = 0x07;
/** Longest serialised piece of a bitmap in bytes, and the alignment of its length. */
const MAX_PIECE_BYTES = 10_240;
const PIECE_ALIGN_BYTES = 32;
/** Number of sectors of the largest disk: 2^63 bytes. */
const MAX_SECTORS = 1n << 54n;

/** The bodies of section `dirty-bitmap` in one stream. A chunk without names belongs to those of the chunk before. */
export class DirtyBitmapBodies {
  #hasNodeName = false;
  #hasBitmapName = false;

  /** Skip one body. */
  async skip(input: StreamInput): Promise<HandlerSummary> {
    const count = new BodyCount();
    for (;;) {
      await input.need(1, 'the flags of a dirty bitmap');
      const at = input.position;
      const flags = input.u8();
      this.#checkFlags(input, flags, at);
      await this.#readNames(input, flags);
      const action = flags & ACTIONS;
      if (action !== 0) {
        if (!this.#hasNodeName || !this.#hasBitmapName) {
          const reason = 'a chunk of a dirty bitmap came before its node name and bitmap name';
          throw input.error('corrupt', reason, at);
        }
        if (action === FLAG.START) await readStart(input);
        count.add(action === FLAG.BITS ? await skipBits(input, flags) : 0);
      }
      if ((flags & FLAG.EOS) !== 0) return count;
    }
  }

  #checkFlags(input: StreamInput, flags: number, at: number): void {
    if ((flags & FLAG.EXTRA) !== 0) {
      const reason = `the flags ${hex(flags, 2)} of a dirty bitmap have extra bytes, which no QEMU version reads`;
      throw input.error('unsupported', reason, at);
    }
    const action = flags & ACTIONS;
    const isEmpty = action === 0 && (flags & FLAG.EOS) === 0;
    const hasSeveral = (action & (action - 1)) !== 0;
    const hasZeroes = (flags & FLAG.ZEROES) !== 0 && action !== FLAG.BITS;
    if (isEmpty || hasSeveral || hasZeroes) {
      const reason = `the flags ${hex(flags, 2)} of a dirty bitmap contradict each other`;
      throw input.error('corrupt', reason, at);
    }
  }

  async #readNames(input: StreamInput, flags: number): Promise<void> {
    if ((flags & FLAG.DEVICE_NAME) !== 0) {
      await skipName(input, "a dirty bitmap's node name");
      this.#hasNodeName = true;
    }
    if ((flags & FLAG.BITMAP_NAME) !== 0) {
      await skipName(input, "a dirty bitmap's name");
      this.#hasBitmapName = true;
    }
  }
}

async function skipName(input: StreamInput, what: string): Promise<void> {
  const at = input.position;
  if ((await input.counted(what)) === '') throw input.error('corrupt', `${what} is empty`, at);
}

async function readStart(input: StreamInput): Promise<void> {
  await input.need(5, 'the start of a dirty bitmap');
  const at = input.position;
  const granularity = input.be32();
  if (granularity === 0 || (granularity & (granularity - 1)) !== 0) {
    const reason = `a dirty bitmap has a granularity of ${granularity}, not a power of 2`;
    throw input.error('corrupt', reason, at);
  }
  const flags = input.u8();
  if ((flags & ~BITMAP_FLAGS) !== 0) {
    throw input.error('corrupt', `a dirty bitmap has unknown flags ${hex(flags, 2)}`, at + 4);
  }
}

async function skipBits(input: StreamInput, flags: number): Promise<number> {
  await input.need(12, 'the sectors of a dirty bitmap');
  const at = input.position;
  const first = input.be64();
  const sectors = input.be32();
  if (sectors === 0 || first + BigInt(sectors) > MAX_SECTORS) {
    const reason = `a piece of a dirty bitmap has ${sectors} sectors from sector ${first}`;
    throw input.error('corrupt', reason, at);
  }
  if ((flags & FLAG.ZEROES) !== 0) return 0;
  const lengthAt = input.position;
  const length = await readLength(input, 'a piece of a dirty bitmap', MAX_PIECE_BYTES);
  if (length === 0 || length % PIECE_ALIGN_BYTES !== 0) {
    const reason = `a piece of a dirty bitmap has ${length} bytes, not a multiple of ${PIECE_ALIGN_BYTES}`;
    throw input.error('corrupt', reason, lengthAt);
  }
  await input.skip(length, 'a piece of a dirty bitmap');
  return length;
}
