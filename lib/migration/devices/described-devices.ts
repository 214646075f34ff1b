import type { DeviceDescription } from '../format/device-types.ts';

/**
 * The devices of a description, handed out as their sections come. By name and instance alone they are not
 * told apart: in real streams of QEMU two may share both (`isa-ide` of the machine `isapc`), and are then in
 * the description in the order of their sections.
 */
export class DescribedDevices {
  /** Of each name and instance the last device first. */
  readonly #left = new Map<string, DeviceDescription[]>();

  constructor(devices: readonly DeviceDescription[]) {
    for (let at = devices.length - 1; at >= 0; at--) {
      const device = devices[at] as DeviceDescription;
      const key = keyOf(device.name, device.instance_id);
      const alike = this.#left.get(key);
      if (alike === undefined) this.#left.set(key, [device]);
      else alike.push(device);
    }
  }

  /** The device that a section belongs to, only once each; undefined if there is none, or no more. */
  take(name: string, instanceId: number): DeviceDescription | undefined {
    return this.#left.get(keyOf(name, instanceId))?.pop();
  }

  /** Whether there is, or still is, a device that a section belongs to. */
  has(name: string, instanceId: number): boolean {
    return (this.#left.get(keyOf(name, instanceId))?.length ?? 0) > 0;
  }

  /** The devices that were not taken. */
  left(): DeviceDescription[] {
    return [...this.#left.values()].flatMap((alike) => alike.toReversed());
  }
}

function keyOf(name: string, instanceId: number): string {
  // Old versions write a negative number for what is unsigned in a section's header.
  return `${instanceId >>> 0} ${name}`;
}
