import { looksLikeItem, MAX_HEADER } from '../format/section-headers.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, LIMIT } from '../format/wire.ts';

const FOOTER_BYTES = 5;
/** Bytes that are taken at once. */
const PIECE = 1_048_576;

/**
 * Reads the body of a section whose length nothing tells, up to its footer: the next place where its
 * footer's five bytes are followed by what can only be another item. The footer is left where it is.
 *
 * A guess, if one that seldom fails; device state that a guest fills may be made to mislead it.
 *
 * @param start - What of the body has been read already.
 * @param isOpen - Whether a section id is that of a section that may go on.
 * @throws {MigrationStreamError} (rejects) `truncated` if there is no such place before the stream ends,
 *   `unsupported` if there is none in `LIMIT.DEVICE_TAIL` bytes.
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
  const begun = input.position - start.length;
  let held = start;
  let from = 0;
  let atEnd = false;
  for (;;) {
    for (;;) {
      const found = held.indexOf(mark, from);
      if (found < 0) {
        from = Math.max(from, held.length - FOOTER_BYTES + 1);
        break;
      }
      const after = held.subarray(found + FOOTER_BYTES, found + FOOTER_BYTES + MAX_HEADER);
      // Too few bytes to judge by: wait for more, if there are any.
      if (after.length < MAX_HEADER && !atEnd) {
        from = found;
        break;
      }
      if (looksLikeItem(after, isOpen, atEnd)) {
        input.unread(held.subarray(found));
        return Buffer.from(held.subarray(0, found));
      }
      from = found + 1;
    }
    if (atEnd) {
      const reason = `the stream ends, and no footer has come behind the ${held.length} bytes of its body`;
      throw input.error('truncated', reason, begun + held.length);
    }
    if (held.length > LIMIT.DEVICE_TAIL) {
      const reason = `no footer in the ${held.length} bytes of its body`;
      throw input.error('unsupported', reason, begun);
    }
    // Doubled each time, so that what is copied is bounded by what is read.
    const wanted = Math.max(MAX_HEADER, held.length);
    const pieces = [held];
    for (let more = 0; more < wanted && !atEnd; ) {
      if ((await input.file.fillOrEnd(1)) === 0) atEnd = true;
      else pieces.push(input.file.getBuffer(Math.min(input.available, wanted - more, PIECE)));
      more += (pieces.at(-1) as Buffer).length;
    }
    held = Buffer.concat(pieces);
  }
}
