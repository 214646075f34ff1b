import type { StreamInput } from '../format/stream-input.ts';
import { BodyCount, type HandlerSummary, hex, lengthOf } from './body.ts';

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

/** What a chunk does: one of these, or nothing in the last one. */
const ACTIONS = FLAG.START | FLAG.COMPLETE | FLAG.BITS;
/** Flags of a bitmap that mean something: enabled, persistent, and one that is ignored. */
const BITMAP_FLAGS = 0x07;
/** Bytes of the longest serialised piece of a bitmap; all are rounded up to the second. */
const MAX_BITS = 10_240;
const BITS_ALIGN = 32;
/** First sector beyond any disk: byte 2^63. */
const SECTORS = 1n << 54n;

/** The bodies of section `dirty-bitmap` in one stream: a name that a chunk leaves out is that of the chunk before. */
export class DirtyBitmapBodies {
  #nodeNamed = false;
  #bitmapNamed = false;

  /** Drops one body. */
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
        if (!this.#nodeNamed || !this.#bitmapNamed) {
          const reason = 'a dirty bitmap comes before its node and name have been given';
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
      const reason = `the flags ${hex(flags, 2)} of a dirty bitmap go on in further bytes, which no version of QEMU reads`;
      throw input.error('unsupported', reason, at);
    }
    const action = flags & ACTIONS;
    const none = action === 0 && (flags & FLAG.EOS) === 0;
    const several = (action & (action - 1)) !== 0;
    const zeroes = (flags & FLAG.ZEROES) !== 0 && action !== FLAG.BITS;
    if (none || several || zeroes) {
      const reason = `the flags ${hex(flags, 2)} of a dirty bitmap do not go together`;
      throw input.error('corrupt', reason, at);
    }
  }

  async #readNames(input: StreamInput, flags: number): Promise<void> {
    if ((flags & FLAG.DEVICE_NAME) !== 0) {
      await skipName(input, "a dirty bitmap's node name");
      this.#nodeNamed = true;
    }
    if ((flags & FLAG.BITMAP_NAME) !== 0) {
      await skipName(input, "a dirty bitmap's name");
      this.#bitmapNamed = true;
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
    const reason = `a dirty bitmap has a granularity of ${granularity}, which is no power of 2`;
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
  if (sectors === 0 || first + BigInt(sectors) > SECTORS) {
    const reason = `a piece of a dirty bitmap has ${sectors} sectors from ${first} on`;
    throw input.error('corrupt', reason, at);
  }
  if ((flags & FLAG.ZEROES) !== 0) return 0;
  const lengthAt = input.position;
  const length = await lengthOf(input, 'a piece of a dirty bitmap', MAX_BITS);
  if (length === 0 || length % BITS_ALIGN !== 0) {
    const reason = `a piece of a dirty bitmap has ${length} bytes, no multiple of ${BITS_ALIGN}`;
    throw input.error('corrupt', reason, lengthAt);
  }
  await input.skip(length, 'a piece of a dirty bitmap');
  return length;
}
