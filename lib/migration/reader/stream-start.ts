import { hex } from '../../util/format.ts';
import type { MigrationEvent, Section } from '../format/events.ts';
import { type MigrationStreamError, quoteSection } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, STREAM_MAGIC, STREAM_VERSION } from '../format/wire.ts';

const SWAPPED_MAGIC = 0x4d564551;

/**
 * Read the header of a stream: the magic and the version.
 *
 * @throws {MigrationStreamError} (rejects) `not-a-stream`, `truncated`; `unsupported` for another version.
 */
export async function readHeader(input: StreamInput): Promise<MigrationEvent> {
  const offset = input.position;
  await input.need(8, 'the header');
  const magic = input.be32();
  if (magic !== STREAM_MAGIC) {
    const found = magic.toString(16).padStart(8, '0');
    const hint = magic === SWAPPED_MAGIC ? '; its bytes are swapped in words of four' : '';
    const reason = `it begins with ${found}, not with 5145564d ("QEVM") as a migration stream does${hint}`;
    throw input.error('not-a-stream', reason, offset);
  }
  const version = input.be32();
  if (version !== STREAM_VERSION) {
    throw input.error('unsupported', `stream version ${version}, not 3`, offset + 4);
  }
  return { type: 'header', offset, version };
}

/** Return the error of a byte that does not begin an item. */
export function notAnItem(
  input: StreamInput,
  type: number,
  previous: Section | null,
): MigrationStreamError {
  const at = input.position - 1;
  const after = previous === null ? '' : ` after section ${quoteSection(previous)}`;
  const reason = `byte ${hex(type, 2)}${after} does not begin an item`;
  if (type === ITEM.SUBSECTION || type === ITEM.FOOTER) {
    return input.error(
      'corrupt',
      `${reason}: the previous section's body was probably read too short`,
      at,
    );
  }
  if (type === STREAM_MAGIC >>> 24) {
    return input.error('corrupt', `${reason}: a second stream may begin here`, at);
  }
  return input.error('corrupt', reason, at);
}
