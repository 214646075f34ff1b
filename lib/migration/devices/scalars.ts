/*
 * The field types that are one integer. Other types (`buffer`, `bitmap`, `timer`, `tmp`, `pci config`, doubles
 * and the private types of devices) are bytes, as in QEMU's scripts/analyze-migration.py.
 */

/** The size of a field type, and its reader. */
export interface Scalar {
  readonly size: number;
  readonly read: (view: DataView, at: number) => number | bigint | boolean;
}

const bool: Scalar = { size: 1, read: (view, at) => view.getUint8(at) !== 0 };
const int8: Scalar = { size: 1, read: (view, at) => view.getInt8(at) };
const uint8: Scalar = { size: 1, read: (view, at) => view.getUint8(at) };
const int16: Scalar = { size: 2, read: (view, at) => view.getInt16(at) };
const uint16: Scalar = { size: 2, read: (view, at) => view.getUint16(at) };
const int32: Scalar = { size: 4, read: (view, at) => view.getInt32(at) };
const uint32: Scalar = { size: 4, read: (view, at) => view.getUint32(at) };

const int64: Scalar = {
  size: 8,
  read(view, at) {
    const value = view.getInt32(at) * 0x1_0000_0000 + view.getUint32(at + 4);
    return Number.isSafeInteger(value) ? value : view.getBigInt64(at);
  },
};

const uint64: Scalar = {
  size: 8,
  read(view, at) {
    const value = view.getUint32(at) * 0x1_0000_0000 + view.getUint32(at + 4);
    return Number.isSafeInteger(value) ? value : view.getBigUint64(at);
  },
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
  // Big-endian as the others: "le" means less or equal to the value of the loading QEMU.
  ['int32 le', int32],
  ['uint32', uint32],
  ['uint32 equal', uint32],
  ['int64', int64],
  ['uint64', uint64],
  // QEMU's name for its check of equal unsigned integers.
  ['int64 equal', uint64],
]);
