import { hex } from '../../util/format.ts';
import type { WarningSink } from '../format/diagnostics.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM } from '../format/wire.ts';
import { BodyCount, type HandlerSummary, readLength } from './body.ts';

/** Tags of a body. @see QEMU `VFIO_MIG_FLAG_…` in hw/vfio/migration.c */
const TAG = {
  END_OF_STATE: 0xffff_ffff_ef10_0001n,
  DEV_CONFIG_STATE: 0xffff_ffff_ef10_0002n,
  DEV_SETUP_STATE: 0xffff_ffff_ef10_0003n,
  DEV_DATA_STATE: 0xffff_ffff_ef10_0004n,
  DEV_INIT_DATA_SENT: 0xffff_ffff_ef10_0005n,
  DEV_CONFIG_LOAD_READY: 0xffff_ffff_ef10_0006n,
} as const;

/** Bytes of a PCI device's state in which its end is searched for; real ones have some thousands. */
const MAX_CONFIG_BYTES = 1_048_576;
/** Bytes that are searched together. */
const WINDOW_BYTES = 32_768;

/** Skip a body of a section `…/vfio`: state of a device that QEMU passed through to the guest. */
export async function skipVfio(
  input: StreamInput,
  diagnostics: WarningSink,
): Promise<HandlerSummary> {
  const count = new BodyCount();
  for (;;) {
    await input.need(8, 'a tag of VFIO state');
    const at = input.position;
    const tag = input.be64();
    switch (tag) {
      case TAG.END_OF_STATE:
      case TAG.DEV_INIT_DATA_SENT:
      case TAG.DEV_CONFIG_LOAD_READY:
        return count;
      case TAG.DEV_SETUP_STATE:
        await expectEnd(input);
        return count;
      case TAG.DEV_CONFIG_STATE:
        count.add(await findEnd(input, diagnostics));
        return count;
      case TAG.DEV_DATA_STATE: {
        const length = await readLength(input, 'VFIO state');
        await input.skip(length, 'VFIO state');
        count.add(length);
        break;
      }
      default:
        throw input.error('corrupt', `${hex(tag, 16)} is not a tag of VFIO state`, at);
    }
  }
}

async function expectEnd(input: StreamInput): Promise<void> {
  await input.need(8, 'the end mark of VFIO state');
  const at = input.position;
  const tag = input.be64();
  if (tag === TAG.END_OF_STATE) return;
  const reason = `DEV_SETUP_STATE of VFIO is followed by ${hex(tag, 16)}, not by END_OF_STATE`;
  throw input.error('corrupt', reason, at);
}

/**
 * Skip the state of a PCI device, whose length is not in the stream, and the end mark after it.
 *
 * @returns Bytes of the state.
 */
async function findEnd(input: StreamInput, diagnostics: WarningSink): Promise<number> {
  const start = input.position;
  const mark = endMark(input);
  for (;;) {
    await input.need(mark.length, 'the PCI state of a VFIO device');
    const bytes = input.file.peekBuffer(Math.min(input.available, WINDOW_BYTES));
    const found = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).indexOf(mark);
    // Keep the last bytes: a mark may begin in them.
    input.file.skip(found >= 0 ? found : bytes.length - mark.length + 1);
    const passed = input.position - start;
    if (passed > MAX_CONFIG_BYTES) {
      const reason = `no END_OF_STATE in the first ${MAX_CONFIG_BYTES} bytes of the PCI state of a VFIO device`;
      throw input.error('corrupt', reason, start);
    }
    if (found < 0) continue;
    input.file.skip(8);
    diagnostics.warn(
      `the end of the PCI state of a VFIO device was found by its end mark, after ${passed} bytes, because its length is not in the stream`,
      start,
    );
    return passed;
  }
}

/** Return the bytes after the state: the tag, and as much of the section's footer as is known. */
function endMark({ section }: StreamInput): Buffer {
  const mark = Buffer.alloc(section === undefined ? 9 : 13);
  mark.writeBigUInt64BE(TAG.END_OF_STATE);
  mark.writeUInt8(ITEM.FOOTER, 8);
  if (section !== undefined) mark.writeUInt32BE(section.sectionId, 9);
  return mark;
}
