import type { DeviceDescription } from '../format/device-types.ts';

/**
 * The devices of a VM description, taken one by one as their sections come. Name and instance do not identify
 * a device: in real streams two may share both (`isa-ide` of the machine `isapc`). The description then lists
 * them in the order of their sections.
 */
export class DescribedDevices {
  /** Devices by name and instance, the last one first. */
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

  /** Return the next device of this name and instance; undefined if there is none left. */
  take(name: string, instanceId: number): DeviceDescription | undefined {
    return this.#left.get(keyOf(name, instanceId))?.pop();
  }

  /** Return whether a device of this name and instance is left. */
  has(name: string, instanceId: number): boolean {
    return (this.#left.get(keyOf(name, instanceId))?.length ?? 0) > 0;
  }

  /** Return the devices that were not taken. */
  left(): DeviceDescription[] {
    return [...this.#left.values()].flatMap((alike) => alike.toReversed());
  }
}

function keyOf(name: string, instanceId: number): string {
  // Old versions of QEMU write the unsigned number of a section's header as a negative one.
  return `${instanceId >>> 0} ${name}`;
}
