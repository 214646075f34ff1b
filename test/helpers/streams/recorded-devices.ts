import { bodySize } from '../../../lib/migration/devices/body-size.ts';
import { findVmDescription } from '../../../lib/migration/devices/find-vm-description.ts';
import type { DeviceDescription } from '../../../lib/migration/format/device-types.ts';
import { be32, counted } from './stream-bytes.ts';

/** A device section of a recording. */
export interface RecordedDevice {
  description: DeviceDescription;
  body: Buffer;
}

/**
 * Return the device sections of a recorded stream, or of a file that contains one; null if it has no VM
 * description. The walk goes from header to footer by the sizes of the description, without a reader.
 */
export function recordedDevices(bytes: Buffer): RecordedDevice[] | null {
  const found = findVmDescription(bytes, 0);
  if (found === null) return null;
  const { description, offset } = found;
  const [first] = description.devices;
  if (first === undefined) return [];
  const name = Buffer.concat([counted(first.name), be32(first.instance_id >>> 0)]);
  for (let at = offset; at > 0; at--) {
    at = bytes.lastIndexOf(name, at);
    if (at < 5) break;
    const devices = walk(bytes, at - 5, description.devices);
    if (devices !== null) return devices;
  }
  return null;
}

/** Return the sections from an offset on, if they are the described ones; null if they are not. */
function walk(
  bytes: Buffer,
  start: number,
  descriptions: readonly DeviceDescription[],
): RecordedDevice[] | null {
  const devices: RecordedDevice[] = [];
  let at = start;
  for (const description of descriptions) {
    if (bytes[at] !== 0x04) return null;
    const name = counted(description.name);
    if (!bytes.subarray(at + 5, at + 5 + name.length).equals(name)) return null;
    const bodyAt = at + 5 + name.length + 8;
    const end = bodyAt + bodySize(description);
    devices.push({ description, body: bytes.subarray(bodyAt, end) });
    const hasFooter =
      bytes[end] === 0x7e && bytes.readUInt32BE(end + 1) === bytes.readUInt32BE(at + 1);
    at = hasFooter ? end + 5 : end;
  }
  return bytes[at] === 0 ? devices : null;
}
