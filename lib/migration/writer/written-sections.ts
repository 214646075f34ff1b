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

/** Return a VM description as QEMU writes it: one line, ASCII, blanks after commas and colons. */
export function descriptionText(description: VmDescription): string {
  return textOf(description).replace(
    /[^\x20-\x7e]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function textOf(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(textOf).join(', ')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}: ${textOf(item)}`).join(', ')}}`;
}
