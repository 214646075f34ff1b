import type { FieldDescription, StateDescription } from '../format/device-types.ts';

/** Types whose size is the same in QEMU's memory and in a stream. */
const INTEGERS: ReadonlySet<string> = new Set([
  'bool',
  'int8',
  'int16',
  'int32',
  'int32 equal',
  'int32 le',
  'int64',
  'int64 equal',
  'uint8',
  'uint8 equal',
  'uint16',
  'uint16 equal',
  'uint32',
  'uint32 equal',
  'uint64',
  'uint64 equal',
  'float64',
  'CPU_Double_U',
]);
const BUFFERS: ReadonlySet<string> = new Set(['buffer', 'unused_buffer']);
const STRUCTURES: ReadonlySet<string> = new Set(['struct', 'vstruct', 'tmp']);
const LISTS: ReadonlySet<string> = new Set(['qtailq', 'qlist', 'gtree']);

/** What a field's type says of its size; that of an `other` one is its own affair. */
export type FieldKind = 'integer' | 'buffer' | 'structure' | 'list' | 'null' | 'other';

/** One field of a stream's description, with all elements of it if it is an array. */
export interface FieldGroup {
  /** As the description has it: with `[1]` behind it where several fields have the name. */
  readonly name: string;
  /** Without that. */
  readonly baseName: string;
  /** The number in it: which of them this one is. */
  readonly ordinal: number | undefined;
  readonly elements: readonly [FieldDescription, ...FieldDescription[]];
  /** Elements in the stream. */
  readonly count: number;
  /** Bytes of them all. */
  readonly bytes: number;
}

/** Puts the elements of each array together. */
export function groupFields(fields: readonly FieldDescription[]): FieldGroup[] {
  const groups: FieldGroup[] = [];
  let elements: [FieldDescription, ...FieldDescription[]] | undefined;
  for (const field of fields) {
    if (elements?.[0].name === field.name) {
      elements.push(field);
    } else {
      if (elements !== undefined) groups.push(groupOf(elements));
      elements = [field];
    }
  }
  if (elements !== undefined) groups.push(groupOf(elements));
  return groups;
}

function groupOf(elements: readonly [FieldDescription, ...FieldDescription[]]): FieldGroup {
  const { name } = elements[0];
  const numbered = /^(.*)\[(\d+)\]$/s.exec(name);
  let count = 0;
  let bytes = 0;
  for (const { array_len: length = 1, size } of elements) {
    count += length;
    bytes += length * size;
  }
  return {
    name,
    baseName: numbered?.[1] ?? name,
    ordinal: numbered === null ? undefined : Number(numbered[2]),
    elements,
    count,
    bytes,
  };
}

/** Tells what a field's type says of its size. */
export function kindOf({ type, size }: FieldDescription): FieldKind {
  // A null pointer in an array; up to QEMU 7.2 it has the type of an integer, but not its size.
  if (type === 'nullptr' || (type === 'uint64' && size === 1)) return 'null';
  if (INTEGERS.has(type)) return 'integer';
  if (BUFFERS.has(type)) return 'buffer';
  if (STRUCTURES.has(type)) return 'structure';
  return LISTS.has(type) ? 'list' : 'other';
}

/** What a field consists of; undefined if it is no structure, or an empty list. */
export function contentsOf(field: FieldDescription): StateDescription | undefined {
  const { struct } = field;
  // QEMU 7.2 describes an array whose first element is a null pointer by an empty structure.
  if (struct !== undefined) return struct.fields === undefined ? undefined : struct;
  return field.fields === undefined ? undefined : field;
}

/** Gives a field's size for people. */
export function quoteSize({ count, elements, bytes }: FieldGroup): string {
  const { size } = elements[0];
  return count > 1 && count * size === bytes ? quoteArray(count, size) : quoteBytes(bytes);
}

/** Gives the size of an array for people: `3 times 4 bytes`. */
export function quoteArray(count: number, size: number): string {
  return `${count} times ${quoteBytes(size)}`;
}

/** Gives a number of bytes for people. */
export function quoteBytes(bytes: number): string {
  return bytes === 1 ? '1 byte' : `${bytes} bytes`;
}
