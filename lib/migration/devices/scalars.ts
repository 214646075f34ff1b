/*
 * The field types that are one integer. Other types (`buffer`, `bitmap`, `timer`, `tmp`, `pci config`, doubles
 * and the private types of devices) are bytes, as in QEMU's scripts/analyze-migration.py.
 */

/** Least and greatest value of an integer type. */
export interface IntegerRange {
  readonly min: bigint;
  readonly max: bigint;
}

/** The size of a field type, its reader, and its range; booleans have no range. */
export interface Scalar {
  readonly size: 1 | 2 | 4 | 8;
  readonly read: (view: DataView, at: number) => number | bigint | boolean;
  readonly range: IntegerRange | null;
}

const bool: Scalar = { size: 1, read: (view, at) => view.getUint8(at) !== 0, range: null };
const int8: Scalar = { size: 1, read: (view, at) => view.getInt8(at), range: signed(8) };
const uint8: Scalar = { size: 1, read: (view, at) => view.getUint8(at), range: unsigned(8) };
const int16: Scalar = { size: 2, read: (view, at) => view.getInt16(at), range: signed(16) };
const uint16: Scalar = { size: 2, read: (view, at) => view.getUint16(at), range: unsigned(16) };
const int32: Scalar = { size: 4, read: (view, at) => view.getInt32(at), range: signed(32) };
const uint32: Scalar = { size: 4, read: (view, at) => view.getUint32(at), range: unsigned(32) };
// Big-endian as the others: "le" means less or equal to the value of the loading QEMU.
const int32LessOrEqual: Scalar = { ...int32, range: { min: 0n, max: signed(32).max } };

const int64: Scalar = {
  size: 8,
  read(view, at) {
    const value = view.getInt32(at) * 0x1_0000_0000 + view.getUint32(at + 4);
    return Number.isSafeInteger(value) ? value : view.getBigInt64(at);
  },
  range: signed(64),
};

const uint64: Scalar = {
  size: 8,
  read(view, at) {
    const value = view.getUint32(at) * 0x1_0000_0000 + view.getUint32(at + 4);
    return Number.isSafeInteger(value) ? value : view.getBigUint64(at);
  },
  range: unsigned(64),
};

/** The integer types by QEMU's names. */
export const SCALARS: ReadonlyMap<string, Scalar> = new Map([
  ['bool', bool],
  ['int8', int8],
  ['uint8', uint8],
  ['uint8 equal', uint8],
  ['int16', int16],
  ['uint16', uint16],
  ['uint16 equal', uint16],
  ['int32', int32],
  ['int32 equal', int32],
  ['int32 le', int32LessOrEqual],
  ['uint32', uint32],
  ['uint32 equal', uint32],
  ['int64', int64],
  ['uint64', uint64],
  // QEMU's name for its check of equal unsigned integers.
  ['int64 equal', uint64],
]);

/** Return whether a field is a null pointer: one byte, which QEMU 7.2 calls a `uint64`. */
export function isNullPointer({ type, size }: { type: string; size: number }): boolean {
  return type === 'nullptr' || (type === 'uint64' && size === 1);
}

/** The byte of a null pointer in an array of pointers: the character 0. @see QEMU `VMS_NULLPTR_MARKER` */
export const NULL_MARK = 0x30;

function signed(bits: number): IntegerRange {
  const half = 1n << BigInt(bits - 1);
  return { min: -half, max: half - 1n };
}

function unsigned(bits: number): IntegerRange {
  return { min: 0n, max: (1n << BigInt(bits)) - 1n };
}
