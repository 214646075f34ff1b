import { Buffer } from 'node:buffer';
import type { VmDescription } from '../format/device-types.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { ITEM, LIMIT } from '../format/wire.ts';
import { findEndMark } from './scan-for-footer.ts';
import { parseVmDescription } from './vm-description.ts';
import { tailMatches } from './walk-device-tail.ts';

/*
 * The VM description comes last in a stream, but is needed to read the device sections before it, so it must
 * be found without knowing its offset. The guest controls bytes of device sections: a text that looks like a
 * description need not be the one.
 *
 * The search takes time linear in the bytes searched, whatever they are. A description begins with byte 0x06,
 * which JSON cannot contain, so the texts that are parsed do not overlap (except for up to five where bytes of
 * the length are 0x06 as well). At most `MAX_CANDIDATES` of them, the last ones, are parsed.
 */

const MAX_CANDIDATES = 64;

/** Bytes of the type and the length. */
const HEADER_BYTES = 5;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
/** Bytes of `{"page_size":256,"devices":[]}`. */
const MIN_JSON_BYTES = 30;

/** A VM description and its place in a stream. */
export interface FoundDescription {
  /** Offset in the stream of its type byte. */
  readonly offset: number;
  /** Bytes from the type byte to the end of the JSON. */
  readonly bytes: number;
  readonly description: VmDescription;
  /** A copy of the JSON. It takes milliseconds to parse: where it is found again, it is not parsed again. */
  readonly text?: Uint8Array | undefined;
  /** Oddities in it; the reader of a stream warns of it when it gets to the description. */
  readonly warnings?: readonly DescriptionWarning[] | undefined;
}

/** A VM description that was found before, and need not be parsed again. */
export type KnownDescription = Omit<FoundDescription, 'bytes'>;

/** A warning about an entry of a VM description. */
export interface DescriptionWarning {
  readonly message: string;
  /** Offset in the stream. */
  readonly offset: number;
}

/**
 * Find the last VM description in a part of a stream.
 *
 * @param base - Offset in the stream of the first byte.
 * @returns The description; null if there is none.
 */
export function findVmDescription(bytes: Uint8Array, base: number): FoundDescription | null {
  for (const found of findVmDescriptions(bytes, base)) return found;
  return null;
}

/**
 * Find all texts in a part of a stream that may be the VM description, the last one first. Each is parsed only
 * when the iterator gets to it.
 *
 * @param base - Offset in the stream of the first byte.
 * @param known - A description of the stream that was found before.
 */
export function* findVmDescriptions(
  bytes: Uint8Array,
  base: number,
  known?: KnownDescription,
): Generator<FoundDescription> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let tried = 0;
  let at = bytes.length - HEADER_BYTES - MIN_JSON_BYTES;
  while (at >= 0 && tried < MAX_CANDIDATES) {
    at = bytes.lastIndexOf(ITEM.VM_DESCRIPTION, at);
    if (at === -1) return;
    const size = likelySize(bytes, view, at);
    if (size !== null) {
      tried++;
      const found = parseAt(bytes, at, size, base, known);
      if (found !== null) yield found;
    }
    at--;
  }
}

/**
 * Choose the VM description of a stream. A volume or a reused file may contain the rest of an older stream
 * after this one, so the last description in it need not be the right one. The right one is the last text by
 * which the device sections end exactly at the end mark before it; else, where footers lead to the end mark,
 * the text after it; else the last text.
 *
 * @param tail - The stream from the type byte of its first device section on.
 * @param base - Offset in the stream of that byte.
 * @param hasFooters - Whether sections have footers.
 * @param known - A description of the stream that was found before.
 * @returns The description; null if there is none.
 */
export function chooseDescription(
  tail: Uint8Array,
  base: number,
  hasFooters: boolean,
  known?: KnownDescription,
): FoundDescription | null {
  let last: FoundDescription | null = null;
  for (const found of findVmDescriptions(tail, base, known)) {
    const endMark = found.offset - base - 1;
    if (tailMatches(tail, 0, endMark, found.description, hasFooters)) return found;
    last ??= found;
  }
  if (last === null || !hasFooters) return last;
  const endMark = findEndMark(tail);
  return endMark === null ? last : descriptionAt(tail, endMark + 1, base, last);
}

/** Return the VM description whose type byte is at `at`; null if there is none. */
function descriptionAt(
  bytes: Uint8Array,
  at: number,
  base: number,
  known: KnownDescription,
): FoundDescription | null {
  if (bytes[at] !== ITEM.VM_DESCRIPTION || at + HEADER_BYTES + MIN_JSON_BYTES > bytes.length)
    return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const size = view.getUint32(at + 1);
  if (size > LIMIT.DESCRIPTION || at + HEADER_BYTES + size > bytes.length) return null;
  return parseAt(bytes, at, size, base, known);
}

/** Return whether the JSON of a description at an offset is the one that was found there before. */
export function isSameText(
  known: KnownDescription | null | undefined,
  offset: number,
  text: Uint8Array,
): known is KnownDescription {
  return known?.offset === offset && known.text !== undefined && isEqual(known.text, text);
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}

/** Return the bytes of JSON if a VM description may begin at `at` with its type byte; else null. */
function likelySize(bytes: Uint8Array, view: DataView, at: number): number | null {
  const begin = at + HEADER_BYTES;
  const size = view.getUint32(at + 1);
  const end = begin + size;
  if (size < MIN_JSON_BYTES || size > LIMIT.DESCRIPTION || end > bytes.length) return null;
  if (bytes[begin] !== OPEN_BRACE || bytes[end - 1] !== CLOSE_BRACE) return null;
  const next = bytes.indexOf(ITEM.VM_DESCRIPTION, begin);
  return next === -1 || next >= end ? size : null;
}

/** Return the VM description whose type byte is at `at`, with `size` bytes of JSON; null if it is not one. */
function parseAt(
  bytes: Uint8Array,
  at: number,
  size: number,
  base: number,
  known?: KnownDescription,
): FoundDescription | null {
  const offset = base + at;
  const json = bytes.subarray(at + HEADER_BYTES, at + HEADER_BYTES + size);
  if (isSameText(known, offset, json)) return { ...known, bytes: HEADER_BYTES + size };
  const warnings: DescriptionWarning[] = [];
  const warn = (message: string, place: number): void => {
    warnings.push({ message, offset: place });
  };
  try {
    const description = parseVmDescription(json, offset + HEADER_BYTES, { warn });
    const text = Buffer.from(json);
    return { offset, bytes: HEADER_BYTES + size, description, text, warnings };
  } catch (error) {
    if (error instanceof MigrationStreamError) return null;
    throw error;
  }
}
