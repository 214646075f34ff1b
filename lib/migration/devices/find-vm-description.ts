import type { VmDescription } from '../format/device-types.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { ITEM, LIMIT } from '../format/wire.ts';
import { parseVmDescription } from './vm-description.ts';
import { tailMatches } from './walk-device-tail.ts';

/*
 * The VM description comes last in a stream, but is needed to get over the device sections before it:
 * it has to be found without knowing where it begins. Device sections hold what a guest likes, so that
 * what looks like a description need not be the one.
 *
 * Looking for it takes time linear in the length of what is searched, whatever is in it. JSON has no
 * byte 0x06, with which a description begins: what is parsed as one is followed by no other such byte.
 * So the texts parsed lie one behind the other (up to five may overlap where bytes of the length are 0x06,
 * too), and no more than `MAX_TRIED` of them are tried, the last ones, for every failure takes its time.
 */

const MAX_TRIED = 64;

/** Type and length. */
const HEADER_SIZE = 5;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
/** `{"page_size":256,"devices":[]}` */
const SHORTEST = 30;

/** A VM description as it lies in a stream. */
export interface FoundDescription {
  /** Offset in the stream of its type byte. */
  readonly offset: number;
  /** Bytes from the type byte to the end of the JSON. */
  readonly bytes: number;
  readonly description: VmDescription;
}

/** Finds the last thing in a part of a stream that is a VM description; null if there is none. */
export function findVmDescription(bytes: Uint8Array, base: number): FoundDescription | null {
  for (const found of findVmDescriptions(bytes, base)) return found;
  return null;
}

/**
 * Finds all that may be the VM description in a part of a stream, the last one first; each is parsed
 * only once it is asked for.
 *
 * @param base - Offset in the stream of the first byte.
 */
export function* findVmDescriptions(bytes: Uint8Array, base: number): Generator<FoundDescription> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let tried = 0;
  let at = bytes.length - HEADER_SIZE - SHORTEST;
  while (at >= 0 && tried < MAX_TRIED) {
    at = bytes.lastIndexOf(ITEM.VM_DESCRIPTION, at);
    if (at === -1) return;
    const size = likelySize(bytes, view, at);
    if (size !== null) {
      tried++;
      const begin = at + HEADER_SIZE;
      const description = tryParse(bytes.subarray(begin, begin + size), base + begin);
      if (description !== null) yield { offset: base + at, bytes: HEADER_SIZE + size, description };
    }
    at--;
  }
}

/**
 * Finds the VM description of a stream: of all that may be it the last one by which the device sections
 * end where the stream's end mark is, right before the description, or else the last one; null if
 * there is none.
 *
 * @param tail - The stream from the type byte of its first device section on.
 * @param base - Offset in the stream of that.
 * @param footers - Whether sections have footers.
 */
export function chooseDescription(
  tail: Uint8Array,
  base: number,
  footers: boolean,
): FoundDescription | null {
  let last: FoundDescription | null = null;
  for (const found of findVmDescriptions(tail, base)) {
    const endMark = found.offset - base - 1;
    if (tailMatches(tail, 0, endMark, found.description, footers)) return found;
    last ??= found;
  }
  return last;
}

/** Bytes of JSON, if those at `at` look like a description, its type byte first. */
function likelySize(bytes: Uint8Array, view: DataView, at: number): number | null {
  const begin = at + HEADER_SIZE;
  const size = view.getUint32(at + 1);
  const end = begin + size;
  if (size < SHORTEST || size > LIMIT.DESCRIPTION || end > bytes.length) return null;
  if (bytes[begin] !== OPEN_BRACE || bytes[end - 1] !== CLOSE_BRACE) return null;
  const next = bytes.indexOf(ITEM.VM_DESCRIPTION, begin);
  return next === -1 || next >= end ? size : null;
}

function tryParse(json: Uint8Array, position: number): VmDescription | null {
  try {
    return parseVmDescription(json, position);
  } catch (error) {
    if (error instanceof MigrationStreamError) return null;
    throw error;
  }
}
