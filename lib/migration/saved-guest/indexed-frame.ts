import { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { Configuration, Section } from '../format/events.ts';
import { MAX_HEADER_BYTES, sectionKindOf } from '../format/section-headers.ts';
import { StreamInput } from '../format/stream-input.ts';
import { ITEM } from '../format/wire.ts';
import type { PageIndex, Place } from '../page-index/page-index.ts';
import { readConfiguration } from '../reader/configuration.ts';
import { Frame, type GuestFrame, type StreamBytes } from './read-frame.ts';
import { wrongIndex } from './wrong-index.ts';

/** Bytes of the type, the id and the length of the name of a section. */
const NAME_AT = 6;
/** Bytes of the instance and the version, after the name. */
const NUMBERS_BYTES = 8;
const FOOTER_BYTES = 5;

/**
 * Read everything except RAM from the places that an index names. The states of devices are not decoded: the digests
 * of the index show that they are the bytes that were decoded when it was made.
 *
 * @param bytes - The bytes of the stream, checked with the digests of the index.
 * @throws {QemuFileError} (rejects) `EBADMSG` if something else is in one of the places.
 * @throws {MigrationStreamError} (rejects) `unsupported` for a stream without RAM, or with too much beside it.
 */
export async function readIndexedFrame(index: PageIndex, bytes: StreamBytes): Promise<GuestFrame> {
  const { configuration, description, sections, hasFooters } = index;
  const frame = new Frame(bytes);
  frame.hasFooters = hasFooters;
  if (configuration !== null) {
    await frame.configure(await readConfigurationAt(configuration, bytes), configuration);
  }
  const known = new Map<number, Section>();
  for (const place of sections) {
    const { from, to } = place;
    const start = await bytes.take(from, Math.min(to, from + MAX_HEADER_BYTES));
    const section = parseHeader(start, from, known);
    if (section === null) throw misplaced(place);
    known.set(section.sectionId, section);
    if (hasFooters && !isFooter(await bytes.take(to, to + FOOTER_BYTES), section)) {
      throw misplaced(place);
    }
    frame.begin(section);
    await frame.keep(section, to);
  }
  if (description !== null) {
    const [type] = await bytes.take(description.from, description.from + 1);
    if (type !== ITEM.VM_DESCRIPTION) throw misplaced(description);
    await frame.describe(description);
  }
  return frame.finish(index.size);
}

async function readConfigurationAt(place: Place, bytes: StreamBytes): Promise<Configuration> {
  const { from, to } = place;
  // The section does not say where it ends: the type of the next item ends it.
  const taken = [await bytes.take(from, to + 1)];
  await using file = new QemuFile({ getBuffer: () => taken.pop() ?? 0 });
  const input = new StreamInput(file, from);
  await input.need(1, 'the configuration');
  if (input.u8() !== ITEM.CONFIGURATION) throw misplaced(place);
  const configuration = await readConfiguration(input);
  if (input.position !== to) throw misplaced(place);
  if (configuration.capabilities.includes('mapped-ram')) throw misplaced(place);
  return configuration;
}

/**
 * Parse the header of a section.
 *
 * @param bytes - The section, or its first `MAX_HEADER_BYTES` bytes.
 * @param offset - Offset in the stream of the section.
 * @param known - The sections before, by their ids.
 * @returns The section; null if the bytes are not a header.
 */
function parseHeader(
  bytes: Uint8Array,
  offset: number,
  known: ReadonlyMap<number, Section>,
): Section | null {
  const header = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const kind = sectionKindOf(header[0] ?? 0);
  if (kind === undefined || header.length < NAME_AT - 1) return null;
  const sectionId = header.readUInt32BE(1);
  const before = known.get(sectionId);
  if (kind === 'part' || kind === 'end') {
    return before === undefined ? null : { ...before, kind, offset };
  }
  const numbers = NAME_AT + (header[NAME_AT - 1] ?? 0);
  if (before !== undefined || header.length < numbers + NUMBERS_BYTES) return null;
  return {
    sectionId,
    name: header.toString('utf8', NAME_AT, numbers),
    instanceId: header.readUInt32BE(numbers),
    versionId: header.readUInt32BE(numbers + 4),
    kind,
    offset,
    bytes: 0,
  };
}

function isFooter(bytes: Uint8Array, { sectionId }: Section): boolean {
  const footer = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return footer.getUint8(0) === ITEM.FOOTER && footer.getUint32(1) === sectionId;
}

function misplaced({ from, to }: Place): Error {
  return wrongIndex(`bytes ${from} to ${to} are not what the index says`, from);
}
