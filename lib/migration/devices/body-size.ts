import { Buffer } from 'node:buffer';
import type {
  DeviceDescription,
  FieldDescription,
  StateDescription,
} from '../format/device-types.ts';

/**
 * Bytes of a device section's body.
 *
 * What the description says need not be so in two cases, which QEMU does not tell apart from others: 7.2,
 * unlike 10, describes an array of pointers of which some are null by its first element (a null takes
 * one byte whatever the element takes), and all versions describe so an array of structures with lists or
 * buffers of different lengths in them. Only a section's footer, found where this says, proves it.
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

/** Bytes before a subsection's fields: type, counted name, version. */
function headerSize({ vmsd_name = '' }: StateDescription): number {
  return 2 + Buffer.byteLength(vmsd_name) + 4;
}

/**
 * How many elements an entry of a list of fields stands for.
 *
 * QEMU 10 has one entry for each run of null or other pointers in an array, but gives the first run, if
 * it is not of nulls, the length of the whole array.
 */
export function elementCount(fields: readonly FieldDescription[], at: number): number {
  const field = fields[at];
  if (field?.array_len === undefined) return 1;
  const first = fields[at - 1]?.name !== field.name;
  return first && field.type !== 'nullptr'
    ? field.array_len - elementsAfter(fields, at)
    : field.array_len;
}

/** Elements of the same array in the entries behind its first one. */
export function elementsAfter(fields: readonly FieldDescription[], first: number): number {
  const name = fields[first]?.name;
  let count = 0;
  for (let at = first + 1; fields[at]?.name === name; at++) count += fields[at]?.array_len ?? 1;
  return count;
}
