import type { Section, SectionKind } from './events.ts';
import type { StreamInput } from './stream-input.ts';
import { COMMAND, ITEM, LIMIT } from './wire.ts';

const KINDS: ReadonlyMap<number, SectionKind> = new Map([
  [ITEM.SECTION_START, 'start'],
  [ITEM.SECTION_PART, 'part'],
  [ITEM.SECTION_END, 'end'],
  [ITEM.SECTION_FULL, 'full'],
]);

/** Return the kind of section that a type byte begins; undefined for other items. */
export function sectionKindOf(type: number): SectionKind | undefined {
  return KINDS.get(type);
}

/** Return whether a name is one that a section may have: not empty, no control characters, valid UTF-8. */
function isSectionName(name: string): boolean {
  return name !== '' && !/[\p{Cc}\ufffd]/u.test(name);
}

/** A section whose START or FULL header was read. */
interface KnownSection {
  readonly name: string;
  readonly instanceId: number;
  readonly versionId: number;
  readonly kind: 'start' | 'full';
  hasEnded: boolean;
  /** Whether the section may stay without its END. */
  isEndOptional: boolean;
}

/** The sections of one stream by their ids. Checks each header against the headers before it. */
export class SectionTable {
  readonly #sections = new Map<number, KnownSection>();
  #openCount = 0;
  /** Whether any section had its END. */
  #hasEnd = false;
  /** Whether any section came at once. */
  #hasFull = false;

  /** Whether any section had its START. */
  hasIterables = false;

  /** Whether a section had its START, but not yet its END. */
  get isOpen(): boolean {
    return this.#openCount > 0;
  }

  /** Whether device sections came although no section had its END, as in a background snapshot. */
  get isSnapshot(): boolean {
    return this.isOpen && !this.#hasEnd && this.#hasFull;
  }

  /** Return whether a PART or END of this section id may follow. */
  isIterable(sectionId: number): boolean {
    const known = this.#sections.get(sectionId);
    return known !== undefined && known.kind === 'start' && !known.hasEnded;
  }

  /** Let a section stay without its END: QEMU sends one only if the handler is active at completion. */
  makeEndOptional(sectionId: number): void {
    const known = this.#sections.get(sectionId);
    if (known === undefined || known.kind === 'full' || known.isEndOptional) return;
    known.isEndOptional = true;
    if (!known.hasEnded) this.#openCount -= 1;
  }

  /**
   * Read the header of a section, after its type byte.
   *
   * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`.
   */
  async read(input: StreamInput, kind: SectionKind): Promise<Section> {
    const offset = input.position - 1;
    await input.need(4, 'the header of a section');
    const sectionId = input.be32();
    if (kind === 'part' || kind === 'end') return this.#resume(input, kind, sectionId, offset);
    const name = await input.counted('the name of a section');
    if (!isSectionName(name)) {
      const reason = name === '' ? 'a section without a name' : `a section with the name "${name}"`;
      throw input.error('corrupt', reason, offset + 5);
    }
    await input.need(8, `the header of section "${name}"`);
    const instanceId = input.be32();
    const versionId = input.be32();
    const before = this.#sections.get(sectionId);
    if (before !== undefined) {
      const reason = `section id ${sectionId} of "${name}" belongs to "${before.name}" already`;
      throw input.error('corrupt', reason, offset + 1);
    }
    if (this.#sections.size === LIMIT.SECTIONS) {
      throw input.error('corrupt', `more than ${LIMIT.SECTIONS} sections`, offset);
    }
    this.#sections.set(sectionId, {
      name,
      instanceId,
      versionId,
      kind,
      hasEnded: false,
      isEndOptional: false,
    });
    if (kind === 'start') {
      this.#openCount += 1;
      this.hasIterables = true;
    } else {
      this.#hasFull = true;
    }
    return { sectionId, name, instanceId, versionId, kind, offset, bytes: 0 };
  }

  #resume(input: StreamInput, kind: 'part' | 'end', sectionId: number, offset: number): Section {
    const known = this.#sections.get(sectionId);
    const item = kind === 'part' ? 'SECTION_PART' : 'SECTION_END';
    if (known === undefined) {
      const reason = `${item} of section ${sectionId}, which had no SECTION_START`;
      throw input.error('corrupt', reason, offset + 1);
    }
    const { name, instanceId, versionId } = known;
    if (known.kind === 'full' || known.hasEnded) {
      const why = known.kind === 'full' ? 'came as SECTION_FULL' : 'had its SECTION_END';
      const reason = `${item} of section ${sectionId} ("${name}"), which ${why}`;
      throw input.error('corrupt', reason, offset + 1);
    }
    if (kind === 'end') {
      known.hasEnded = true;
      this.#hasEnd = true;
      if (!known.isEndOptional) this.#openCount -= 1;
    }
    return { sectionId, name, instanceId, versionId, kind, offset, bytes: 0 };
  }
}

/** Longest header of a section in bytes, its type byte included. */
export const MAX_HEADER_BYTES: number = 1 + 4 + 1 + 255 + 4 + 4;

/**
 * Return whether bytes look like the beginning of an item, which is what must follow a section's footer.
 *
 * @param bytes - Up to `MAX_HEADER_BYTES` bytes after the footer.
 * @param isOpen - Returns whether a PART or END of a section id may follow.
 * @param atEnd - Whether the stream ends after `bytes`.
 */
export function looksLikeItem(
  bytes: Uint8Array,
  isOpen: (sectionId: number) => boolean,
  atEnd: boolean,
): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const type = bytes[0];
  if (type === undefined) return false;
  if (type === ITEM.EOF) {
    // After the end mark there is the description, nothing, or padding.
    const rest = bytes.subarray(1);
    return rest[0] === ITEM.VM_DESCRIPTION || ((rest.length > 0 || atEnd) && !rest.some(Boolean));
  }
  if (type === ITEM.SECTION_PART || type === ITEM.SECTION_END) {
    return bytes.length >= 5 && isOpen(view.getUint32(1));
  }
  if (type === ITEM.COMMAND) {
    if (bytes.length < 5) return false;
    const number = view.getUint16(1);
    return number >= 1 && number <= COMMAND.SWITCHOVER_START;
  }
  if (type !== ITEM.SECTION_START && type !== ITEM.SECTION_FULL) return false;
  const length = bytes[5];
  if (length === undefined || length === 0) return false;
  const name = bytes.subarray(6, 6 + length);
  if (name.length < length || bytes.length < 6 + length + 8) return false;
  if (name.some((byte) => byte < 0x20 || byte === 0x7f)) return false;
  return view.getUint32(6 + length + 4) < 0x10000;
}
