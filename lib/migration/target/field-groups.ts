import type { FieldDescription, StateDescription } from '../format/device-types.ts';

/** Types that have the same size in QEMU's memory and in a stream. */
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

/** Kind of a field's type, which decides its size; the size of `other` depends on the type. */
export type FieldKind = 'integer' | 'buffer' | 'structure' | 'list' | 'null' | 'other';

/** One field of a stream's description, with all elements of it if it is an array. */
export interface FieldGroup {
  /** Name in the description, with a number such as `[1]` if several fields share the name. */
  readonly name: string;
  /** Name without the number. */
  readonly baseName: string;
  /** The number in the name. */
  readonly ordinal: number | undefined;
  readonly elements: readonly [FieldDescription, ...FieldDescription[]];
  /** Elements in the stream. */
  readonly count: number;
  /** Bytes of all elements. */
  readonly bytes: number;
}

/** Group the elements of each array. */
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

/** Return the kind of a field's type. */
export function kindOf({ type, size }: FieldDescription): FieldKind {
  // A null pointer in an array. Up to QEMU 7.2 its type is that of an integer, but not its size.
  if (type === 'nullptr' || (type === 'uint64' && size === 1)) return 'null';
  if (INTEGERS.has(type)) return 'integer';
  if (BUFFERS.has(type)) return 'buffer';
  if (STRUCTURES.has(type)) return 'structure';
  return LISTS.has(type) ? 'list' : 'other';
}

/** Return the contents of a structure or list; undefined for other fields and empty lists. */
export function contentsOf(field: FieldDescription): StateDescription | undefined {
  const { struct } = field;
  // QEMU 7.2 describes an array whose first element is a null pointer by an empty structure.
  if (struct !== undefined) return struct.fields === undefined ? undefined : struct;
  return field.fields === undefined ? undefined : field;
}

/** Describe the size of a field. */
export function quoteSize({ count, elements, bytes }: FieldGroup): string {
  const { size } = elements[0];
  return count > 1 && count * size === bytes ? quoteArray(count, size) : quoteBytes(bytes);
}

/** Describe the size of an array: `3 times 4 bytes`. */
export function quoteArray(count: number, size: number): string {
  return `${count} times ${quoteBytes(size)}`;
}

/** Describe a number of bytes: `1 byte`. */
export function quoteBytes(bytes: number): string {
  return bytes === 1 ? '1 byte' : `${bytes} bytes`;
}
