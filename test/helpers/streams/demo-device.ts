import { parseVmDescription } from '../../../lib/migration/devices/vm-description.ts';
import type {
  DeviceDescription,
  FieldDescription,
  StateDescription,
} from '../../../lib/migration/format/device-types.ts';

/** Return a field of a type and size, with further members. */
export function field(
  name: string,
  type: string,
  size: number,
  more: Partial<FieldDescription> = {},
): FieldDescription {
  return { name, type, size, ...more };
}

/** Return the device `demo` with these fields, through the parser: no device that it would refuse. */
export function demoDevice(
  fields: FieldDescription[],
  subsections?: StateDescription[],
): DeviceDescription {
  const device = { name: 'demo', instance_id: 0, vmsd_name: 'demo', version: 1, fields };
  const json = JSON.stringify({ page_size: 4096, devices: [{ ...device, subsections }] });
  return parseVmDescription(Buffer.from(json), 0).devices[0] as DeviceDescription;
}

/** A field of each integer type, the state of them, and its bytes. */
export const INTEGERS: Readonly<{
  device: DeviceDescription;
  state: Record<string, boolean | number>;
  bytes: string;
}> = {
  device: demoDevice([
    field('b_1', 'bool', 1),
    field('b_2', 'bool', 1),
    field('u8_1', 'uint8', 1),
    field('u16_1', 'uint16', 2),
    field('u32_1', 'uint32', 4),
    field('u64_1', 'uint64', 8),
    field('i8_1', 'int8', 1),
    field('i8_2', 'int8', 1),
    field('i16_1', 'int16', 2),
    field('i16_2', 'int16', 2),
    field('i32_1', 'int32', 4),
    field('i32_2', 'int32', 4),
    field('i64_1', 'int64', 8),
    field('i64_2', 'int64', 8),
  ]),
  state: {
    b_1: true,
    b_2: false,
    u8_1: 130,
    u16_1: 512,
    u32_1: 70_000,
    u64_1: 12_121_212,
    i8_1: 65,
    i8_2: -65,
    i16_1: 512,
    i16_2: -512,
    i32_1: 70_000,
    i32_2: -70_000,
    i64_1: 12_121_212,
    i64_2: -12_121_212,
  },
  bytes:
    '01 00 82 02 00 00 01 11 70 00 00 00 00 00 b8 f4 7c 41 bf 02 00 fe 00 00 01 11 70 ff fe ee 90 00 00 00 00 00 b8 f4 7c ff ff ff ff ff 47 0b 84',
};
