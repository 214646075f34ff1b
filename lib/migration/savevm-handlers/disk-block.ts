import type { StreamInput } from '../format/stream-input.ts';
import { BodyCount, type HandlerSummary, hex } from './body.ts';

/** Flags of a word of disk contents. @see QEMU `BLK_MIG_FLAG_…` in migration/block.c */
const FLAG = { DEVICE_BLOCK: 0x01, EOS: 0x02, PROGRESS: 0x04, ZERO_BLOCK: 0x08 } as const;
/** Bits of a word below the sector. */
const FLAGS = 0x1ffn;
/** Bytes of a chunk, also at the end of a device. */
const CHUNK = 1_048_576;

/** Drops a body of section `block`: contents of disks. */
export async function skipBlock(input: StreamInput): Promise<HandlerSummary> {
  const count = new BodyCount();
  for (;;) {
    await input.need(8, 'a word of disk contents');
    const at = input.position;
    const word = input.be64();
    if (word === BigInt(FLAG.EOS)) return count;
    const flags = Number(word & FLAGS);
    switch (flags) {
      case FLAG.PROGRESS:
        count.add(0);
        break;
      case FLAG.DEVICE_BLOCK:
      case FLAG.DEVICE_BLOCK | FLAG.ZERO_BLOCK: {
        if (word >> 63n === 1n) {
          throw input.error('corrupt', `word ${hex(word)} has a sector beyond any disk`, at);
        }
        const nameAt = input.position;
        if ((await input.counted('the device name of disk contents')) === '') {
          throw input.error('corrupt', 'the device name of disk contents is empty', nameAt);
        }
        const size = flags === FLAG.DEVICE_BLOCK ? CHUNK : 0;
        await input.skip(size, 'disk contents');
        count.add(size);
        break;
      }
      default:
        throw input.error('corrupt', `word ${hex(word)} has no known flags of disk contents`, at);
    }
  }
}
