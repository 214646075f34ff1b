import { looksLikeItem, MAX_HEADER_BYTES } from '../format/section-headers.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, LIMIT } from '../format/wire.ts';

const FOOTER_BYTES = 5;
const READ_CHUNK_BYTES = 1_048_576;

/**
 * Read the body of a section of unknown length, up to its footer: the first place where the five bytes of its
 * footer are followed by bytes that look like another item. The footer is not consumed.
 *
 * This is a heuristic. It rarely fails by chance, but a guest that controls device state can mislead it.
 *
 * @param start - Bytes of the body that were read already.
 * @param isOpen - Returns whether a PART or END of a section id may follow.
 * @throws {MigrationStreamError} (rejects) `truncated` if the stream ends first, `unsupported` if there is no
 *   footer in `LIMIT.DEVICE_TAIL` bytes.
 */
export async function scanForFooter(
  input: StreamInput,
  sectionId: number,
  start: Buffer,
  isOpen: (sectionId: number) => boolean,
): Promise<Buffer> {
  const mark = Buffer.alloc(FOOTER_BYTES);
  mark[0] = ITEM.FOOTER;
  mark.writeUInt32BE(sectionId, 1);
  const bodyOffset = input.position - start.length;
  let body = start;
  let from = 0;
  let atEnd = false;
  for (;;) {
    for (;;) {
      const found = body.indexOf(mark, from);
      if (found < 0) {
        from = Math.max(from, body.length - FOOTER_BYTES + 1);
        break;
      }
      const after = body.subarray(found + FOOTER_BYTES, found + FOOTER_BYTES + MAX_HEADER_BYTES);
      // Wait for more bytes if these are too few to judge by.
      if (after.length < MAX_HEADER_BYTES && !atEnd) {
        from = found;
        break;
      }
      if (looksLikeItem(after, isOpen, atEnd)) {
        input.unread(body.subarray(found));
        return Buffer.from(body.subarray(0, found));
      }
      from = found + 1;
    }
    if (atEnd) {
      const reason = `the stream ends without a section footer after ${body.length} bytes of body`;
      throw input.error('truncated', reason, bodyOffset + body.length);
    }
    if (body.length > LIMIT.DEVICE_TAIL) {
      const reason = `no section footer in ${body.length} bytes of body`;
      throw input.error('unsupported', reason, bodyOffset);
    }
    // Doubling bounds the bytes copied by the bytes read.
    const wanted = Math.max(MAX_HEADER_BYTES, body.length);
    const chunks = [body];
    for (let more = 0; more < wanted && !atEnd; ) {
      if ((await input.file.fillOrEnd(1)) === 0) {
        atEnd = true;
      } else {
        const take = Math.min(input.available, wanted - more, READ_CHUNK_BYTES);
        chunks.push(input.file.getBuffer(take));
        more += take;
      }
    }
    body = Buffer.concat(chunks);
  }
}
