import { hex } from '../../util/format.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { BodyCount, type HandlerSummary } from './body.ts';

/** Flags in the low bits of a word. @see QEMU `BLK_MIG_FLAG_…` in migration/block.c */
const FLAG = { DEVICE_BLOCK: 0x01, EOS: 0x02, PROGRESS: 0x04, ZERO_BLOCK: 0x08 } as const;
/** The bits of a word below the sector number. */
const FLAG_MASK = 0x1ffn;
/** Bytes of a chunk; the last chunk of a device has as many. */
const CHUNK_BYTES = 1_048_576;

/** Skip a body of section `block`: contents of disks. Removed in QEMU 9.1. */
export async function skipBlock(input: StreamInput): Promise<HandlerSummary> {
  const count = new BodyCount();
  for (;;) {
    await input.need(8, 'a word of disk contents');
    const at = input.position;
    const word = input.be64();
    if (word === BigInt(FLAG.EOS)) return count;
    const flags = Number(word & FLAG_MASK);
    switch (flags) {
      case FLAG.PROGRESS:
        count.add(0);
        break;
      case FLAG.DEVICE_BLOCK:
      case FLAG.DEVICE_BLOCK | FLAG.ZERO_BLOCK: {
        if (word >> 63n === 1n) {
          throw input.error('corrupt', `word ${hex(word, 16)} has a sector beyond any disk`, at);
        }
        const nameAt = input.position;
        if ((await input.counted('the device name of disk contents')) === '') {
          throw input.error('corrupt', 'the device name of disk contents is empty', nameAt);
        }
        const size = flags === FLAG.DEVICE_BLOCK ? CHUNK_BYTES : 0;
        await input.skip(size, 'disk contents');
        count.add(size);
        break;
      }
      default:
        throw input.error(
          'corrupt',
          `word ${hex(word, 16)} has unknown flags for section block`,
          at,
        );
    }
  }
}
