import { deviceKey } from '../verify/summary.ts';
import type { ComparedDevice } from './compared-devices.ts';
import { compareValues, type FieldDifference } from './field-differences.ts';

/** Most differing fields that are listed; the others are only counted. */
const MAX_FIELDS = 100_000;

/** A device that differs between two guests. */
export interface DeviceDifference {
  readonly name: string;
  readonly instanceId: number;
  /** The guest that has the device; null if both have it. */
  readonly onlyIn: 'a' | 'b' | null;
  /** The versions of the two sections; null if they are the same. */
  readonly versionIds: readonly [a: number, b: number] | null;
  /** The fields that differ. The path is empty for a state that could not be decoded. */
  readonly fields: readonly FieldDifference[];
  /** Number of differing fields that are not listed because there are too many. */
  readonly moreFields: number;
}

/** Decides by the name `DEVICE.FIELD` whether a difference is left out. */
export type IsIgnored = (name: string) => boolean;

/**
 * Compare the devices of two guests. Devices are matched by name and instance; where several share both, by
 * their order.
 *
 * @param isIgnored - Receives `DEVICE.FIELD`; `DEVICE` is the device's key (see `deviceKey`), and `FIELD` is
 *   empty for a device that is missing, of another version, or not decoded.
 * @returns The devices that differ, in the order of the first guest.
 */
export function compareDevices(
  a: readonly ComparedDevice[],
  b: readonly ComparedDevice[],
  isIgnored: IsIgnored,
): DeviceDifference[] {
  const differences: DeviceDifference[] = [];
  let room = MAX_FIELDS;
  const left = byKey(b);
  for (const device of a) {
    const other = left.get(deviceKey(device))?.shift();
    const difference =
      other === undefined
        ? missingDevice(device, 'a', isIgnored)
        : compareDevice(device, other, isIgnored, room);
    if (difference === null) continue;
    room -= difference.fields.length;
    differences.push(difference);
  }
  const unmatched = new Set([...left.values()].flat());
  for (const device of b) {
    const difference = unmatched.has(device) ? missingDevice(device, 'b', isIgnored) : null;
    if (difference !== null) differences.push(difference);
  }
  return differences;
}

function byKey(devices: readonly ComparedDevice[]): Map<string, ComparedDevice[]> {
  const map = new Map<string, ComparedDevice[]>();
  for (const device of devices) {
    const key = deviceKey(device);
    const alike = map.get(key);
    if (alike === undefined) map.set(key, [device]);
    else alike.push(device);
  }
  return map;
}

function missingDevice(
  device: ComparedDevice,
  onlyIn: 'a' | 'b',
  isIgnored: IsIgnored,
): DeviceDifference | null {
  if (isIgnored(`${deviceKey(device)}.`)) return null;
  const { name, instanceId } = device;
  return { name, instanceId, onlyIn, versionIds: null, fields: [], moreFields: 0 };
}

/** Return how two sections of a device differ; null if they do not. */
function compareDevice(
  a: ComparedDevice,
  b: ComparedDevice,
  isIgnored: IsIgnored,
  room: number,
): DeviceDifference | null {
  const { name, instanceId, versionId } = a;
  const key = deviceKey(a);
  const isOtherVersion = versionId !== b.versionId && !isIgnored(`${key}.`);
  if (!isOtherVersion && Buffer.compare(a.body, b.body) === 0) return null;
  const fields: FieldDifference[] = [];
  let moreFields = 0;
  const isDecoded = a.state !== null && b.state !== null;
  compareValues(isDecoded ? a.state : a.body, isDecoded ? b.state : b.body, '', (difference) => {
    if (isIgnored(`${key}.${difference.path}`)) return;
    if (fields.length < room) fields.push(difference);
    else moreFields += 1;
  });
  if (fields.length === 0 && moreFields === 0 && !isOtherVersion) return null;
  const versionIds = isOtherVersion ? ([versionId, b.versionId] as const) : null;
  return { name, instanceId, onlyIn: null, versionIds, fields, moreFields };
}
