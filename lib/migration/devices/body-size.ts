import { Buffer } from 'node:buffer';
import type {
  DeviceDescription,
  FieldDescription,
  StateDescription,
} from '../format/device-types.ts';

/**
 * Return the bytes of a device section's body by its description.
 *
 * The description can be wrong in two cases, which cannot be recognised in it. QEMU 7.2 describes an array of
 * pointers, some of them null, by its first element, although a null pointer takes one byte. All versions
 * describe an array of structures by its first element, although lists and buffers in the others may have
 * other lengths. Only a footer at the computed place confirms the size.
 */
export function bodySize(device: DeviceDescription): number {
  return sizeOf(device);
}

function sizeOf({ fields = [], subsections = [] }: StateDescription): number {
  let size = 0;
  fields.forEach((field, at) => {
    size += field.size * elementCount(fields, at);
  });
  for (const subsection of subsections) size += headerSize(subsection) + sizeOf(subsection);
  return size;
}

/** Return the bytes before a subsection's fields: type, counted name, version. */
function headerSize({ vmsd_name = '' }: StateDescription): number {
  return 2 + Buffer.byteLength(vmsd_name) + 4;
}

/** Return whether the entries of one name stand for one element that is not in an array. */
export function isElement(
  fields: readonly FieldDescription[],
  first: number,
  after: number,
): boolean {
  const { array_len, index } = fields[first] as FieldDescription;
  return after === first + 1 && array_len === undefined && index === undefined;
}

/**
 * Return the number of elements that an entry of a list of fields stands for.
 *
 * QEMU 10 writes one entry for each run of null or other pointers in an array, but the first run, unless it
 * consists of null pointers, has the length of the whole array.
 */
export function elementCount(fields: readonly FieldDescription[], at: number): number {
  const field = fields[at];
  if (field?.array_len === undefined) return 1;
  const isFirst = fields[at - 1]?.name !== field.name;
  return isFirst && field.type !== 'nullptr'
    ? field.array_len - elementsAfter(fields, at)
    : field.array_len;
}

/** Return the number of elements of an array in the entries after its first one. */
export function elementsAfter(fields: readonly FieldDescription[], first: number): number {
  const name = fields[first]?.name;
  let count = 0;
  for (let at = first + 1; fields[at]?.name === name; at++) count += fields[at]?.array_len ?? 1;
  return count;
}
