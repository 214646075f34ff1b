import type { DeviceDescription, VmDescription } from '../format/device-types.ts';

/** A FULL section that was written. */
export interface WrittenSection {
  readonly name: string;
  readonly instanceId: number;
  /** Bytes of the body. */
  readonly bytes: number;
  /** How the body is described; undefined if nothing but its length is known. */
  readonly description: DeviceDescription | undefined;
}

/**
 * Return a VM description of sections.
 *
 * @see QEMU `vmstate_save_old_style` in migration/savevm.c, which describes a body by its length
 */
export function describeSections(
  sections: readonly WrittenSection[],
  pageSize: number,
): VmDescription {
  return { page_size: pageSize, devices: sections.map(describe) };
}

function describe({ name, instanceId, bytes, description }: WrittenSection): DeviceDescription {
  if (description !== undefined) return { ...description, name, instance_id: instanceId };
  return {
    name,
    instance_id: instanceId,
    size: bytes,
    fields: [{ name: 'data', size: bytes, type: 'buffer' }],
  };
}
