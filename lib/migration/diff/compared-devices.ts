import { bodySize } from '../devices/body-size.ts';
import { DescribedDevices } from '../devices/described-devices.ts';
import { decodeState } from '../devices/state-decoder.ts';
import { parseVmDescription } from '../devices/vm-description.ts';
import type { DeviceDescription, DeviceState } from '../format/device-types.ts';
import type { WarningSink } from '../format/diagnostics.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { SavedGuest, SavedSection } from '../saved-guest/saved-guest.ts';

/** Most values that are decoded of all devices of a guest; the states beyond are compared as bytes. */
const MAX_VALUES = 4_194_304;

/** The state of a device, or of another handler of sections. */
export interface ComparedDevice {
  readonly name: string;
  readonly instanceId: number;
  readonly versionId: number;
  /** The body of its section; of a section in pieces, the bodies of all. */
  readonly body: Uint8Array;
  /** The decoded state; null if it cannot be decoded. */
  readonly state: DeviceState | null;
}

/** Oddities of a stream do not matter for its comparison. */
const IGNORED: WarningSink = { warn: () => {} };

/** Return all sections of a guest except `ram`, decoded where its VM description fits. */
export function comparedDevices({ sections, descriptionText }: SavedGuest): ComparedDevice[] {
  const described = new DescribedDevices(
    descriptionText === null ? [] : parseVmDescription(descriptionText, 0, IGNORED).devices,
  );
  const budget = { values: MAX_VALUES };
  const devices: ComparedDevice[] = [];
  const pieces = new Map<number, SavedSection[]>();
  for (const section of sections) {
    const { kind, sectionId, name, instanceId, versionId, body } = section;
    if (kind === 'full') {
      const state = decode(section, described.take(name, instanceId), budget);
      devices.push({ name, instanceId, versionId, body, state });
      continue;
    }
    const earlier = pieces.get(sectionId);
    if (earlier === undefined) pieces.set(sectionId, [section]);
    else earlier.push(section);
  }
  for (const [first, ...others] of pieces.values()) {
    const { name, instanceId, versionId } = first as SavedSection;
    const body = Buffer.concat([first as SavedSection, ...others].map((piece) => piece.body));
    devices.push({ name, instanceId, versionId, body, state: null });
  }
  return devices;
}

function decode(
  section: SavedSection,
  description: DeviceDescription | undefined,
  budget: { values: number },
): DeviceState | null {
  if (description === undefined || description.unusable !== undefined) return null;
  if (bodySize(description) !== section.body.length) return null;
  try {
    return decodeState(description, section.body, { bodyOffset: 0, section, budget });
  } catch (error) {
    if (error instanceof MigrationStreamError) return null;
    throw error;
  }
}
