import type { Section, SectionKind } from './events.ts';
import type { StreamInput } from './stream-input.ts';
import { COMMAND, ITEM, LIMIT } from './wire.ts';

const KINDS: ReadonlyMap<number, SectionKind> = new Map([
  [ITEM.SECTION_START, 'start'],
  [ITEM.SECTION_PART, 'part'],
  [ITEM.SECTION_END, 'end'],
  [ITEM.SECTION_FULL, 'full'],
]);

/** The kind of section that a type byte begins; undefined if it is another item's. */
export function sectionKindOf(type: number): SectionKind | undefined {
  return KINDS.get(type);
}

/** Whether a name is text that a section may have: no control characters. */
function isName(name: string): boolean {
  return name !== '' && !/\p{Cc}/u.test(name);
}

/** A section that has begun with START, until it ends. */
interface Begun {
  readonly name: string;
  readonly instanceId: number;
  readonly versionId: number;
  readonly kind: 'start' | 'full';
  ended: boolean;
}

/** The sections of one stream: what their headers may say, and what was said before. */
export class SectionTable {
  readonly #begun = new Map<number, Begun>();
  #open = 0;
  /** Whether any section has ended, and whether any came all at once. */
  #hasEnd = false;
  #hasFull = false;

  /** Whether any section has begun that comes in pieces. */
  hasIterables = false;

  /** Whether pieces of a section are still to come. */
  get isOpen(): boolean {
    return this.#open > 0;
  }

  /** Whether no section has ended and devices have come all the same, as in a background snapshot. */
  get isSnapshot(): boolean {
    return this.isOpen && !this.#hasEnd && this.#hasFull;
  }

  /** The id of a section that has begun, by its name; for tests of what may follow. */
  isIterable(sectionId: number): boolean {
    const begun = this.#begun.get(sectionId);
    return begun !== undefined && begun.kind === 'start' && !begun.ended;
  }

  /**
   * Reads the header of a section, behind its type byte.
   *
   * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`.
   */
  async read(input: StreamInput, kind: SectionKind): Promise<Section> {
    const offset = input.position - 1;
    await input.need(4, 'the header of a section');
    const sectionId = input.be32();
    if (kind === 'part' || kind === 'end') return this.#resume(input, kind, sectionId, offset);
    const name = await input.counted('the name of a section');
    if (!isName(name)) {
      const reason = name === '' ? 'a section without a name' : `a section with the name "${name}"`;
      throw input.error('corrupt', reason, offset + 5);
    }
    await input.need(8, `the header of section "${name}"`);
    const instanceId = input.be32();
    const versionId = input.be32();
    const before = this.#begun.get(sectionId);
    if (before !== undefined) {
      const reason = `section id ${sectionId} of "${name}" is that of "${before.name}" already`;
      throw input.error('corrupt', reason, offset + 1);
    }
    if (this.#begun.size === LIMIT.SECTIONS) {
      throw input.error('corrupt', `more than ${LIMIT.SECTIONS} sections`, offset);
    }
    this.#begun.set(sectionId, { name, instanceId, versionId, kind, ended: false });
    if (kind === 'start') {
      this.#open += 1;
      this.hasIterables = true;
    } else {
      this.#hasFull = true;
    }
    return { sectionId, name, instanceId, versionId, kind, offset, bytes: 0 };
  }

  #resume(input: StreamInput, kind: 'part' | 'end', sectionId: number, offset: number): Section {
    const begun = this.#begun.get(sectionId);
    const which = kind === 'part' ? 'PART' : 'END';
    if (begun === undefined) {
      const reason = `${which} of section ${sectionId}, which has not begun`;
      throw input.error('corrupt', reason, offset + 1);
    }
    const { name, instanceId, versionId } = begun;
    if (begun.kind === 'full' || begun.ended) {
      const why = begun.kind === 'full' ? 'came all at once' : 'has ended';
      const reason = `${which} of section ${sectionId} ("${name}"), which ${why}`;
      throw input.error('corrupt', reason, offset + 1);
    }
    if (kind === 'end') {
      begun.ended = true;
      this.#hasEnd = true;
      this.#open -= 1;
    }
    return { sectionId, name, instanceId, versionId, kind, offset, bytes: 0 };
  }
}

/** Longest header of an item, its type byte included. */
export const MAX_HEADER: number = 1 + 4 + 1 + 255 + 4 + 4;

/**
 * Whether bytes look like the beginning of an item, as far as they go: what a section's footer must be
 * followed by.
 *
 * @param isOpen - Whether a section id is that of a section that may go on.
 * @param atEnd - Whether nothing follows these bytes.
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
    // Behind the end mark there is the description, nothing, or padding.
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
