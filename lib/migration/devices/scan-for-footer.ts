import { looksLikeItem, MAX_HEADER_BYTES } from '../format/section-headers.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, LIMIT } from '../format/wire.ts';

const FOOTER_BYTES = 5;
const READ_CHUNK_BYTES = 1_048_576;
/** Bytes that are searched together for the footer of a body that is skipped. */
const WINDOW_BYTES = 32_768;

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
  const mark = footerOf(sectionId);
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

/**
 * Skip the body of a live section of unknown layout, up to its footer, which is found as by `scanForFooter`. Takes
 * constant memory and linear time: each place that looks like the footer is judged by a bounded look-ahead.
 *
 * @returns Bytes of the body.
 * @throws {MigrationStreamError} (rejects) `truncated` if the stream ends first, `unsupported` if there is no
 *   footer in `LIMIT.UNKNOWN_BODY` bytes.
 */
export async function skipToFooter(
  input: StreamInput,
  sectionId: number,
  isOpen: (sectionId: number) => boolean,
): Promise<number> {
  const { file } = input;
  const mark = footerOf(sectionId);
  const start = input.position;
  const lookAhead = FOOTER_BYTES + MAX_HEADER_BYTES;
  for (;;) {
    const available = await file.fillOrEnd(lookAhead);
    const view = file.peekBuffer(Math.min(available, WINDOW_BYTES));
    const window = Buffer.from(view.buffer, view.byteOffset, view.length);
    const found = window.indexOf(mark);
    if (found < 0) {
      if (available < lookAhead) {
        const reason = `the stream ends without a section footer after ${input.position - start + available} bytes of body`;
        throw input.error('truncated', reason, input.position + available);
      }
      file.skip(window.length - FOOTER_BYTES + 1);
    } else {
      file.skip(found);
      const size = Math.min(await file.fillOrEnd(lookAhead), lookAhead);
      const after = file.peekBuffer(size).subarray(FOOTER_BYTES);
      if (looksLikeItem(after, isOpen, size < lookAhead)) return input.position - start;
      file.skip(1);
    }
    if (input.position - start > LIMIT.UNKNOWN_BODY) {
      const reason = `no section footer in ${LIMIT.UNKNOWN_BODY} bytes of body of unknown layout`;
      throw input.error('unsupported', reason, start);
    }
  }
}

/**
 * Find the end mark after a row of device sections by their footers.
 *
 * @param tail - A part of a stream that begins with the type byte of a device section.
 * @returns Index of the end mark; null if other items follow, or a footer is not found.
 */
export function findEndMark(tail: Uint8Array): number | null {
  const bytes = Buffer.from(tail.buffer, tail.byteOffset, tail.length);
  let at = 0;
  while (bytes[at] === ITEM.SECTION_FULL) {
    const nameLength = bytes[at + 5] ?? 0;
    let footer = at + 6 + nameLength + 8;
    if (footer > bytes.length) return null;
    const mark = footerOf(bytes.readUInt32BE(at + 1));
    for (;;) {
      footer = bytes.indexOf(mark, footer);
      if (footer < 0) return null;
      const next = footer + FOOTER_BYTES;
      const after = bytes.subarray(next, next + MAX_HEADER_BYTES);
      if (looksLikeItem(after, () => false, after.length < MAX_HEADER_BYTES)) break;
      footer += 1;
    }
    at = footer + FOOTER_BYTES;
  }
  return at > 0 && bytes[at] === ITEM.EOF ? at : null;
}

function footerOf(sectionId: number): Buffer {
  const mark = Buffer.alloc(FOOTER_BYTES);
  mark[0] = ITEM.FOOTER;
  mark.writeUInt32BE(sectionId, 1);
  return mark;
}
