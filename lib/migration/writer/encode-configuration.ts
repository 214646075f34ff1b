import type { Configuration } from '../format/events.ts';
import { ITEM, LIMIT } from '../format/wire.ts';
import { be32, counted } from './encode-integers.ts';

const SUBSECTION_VERSION = 1;
const UUID_BYTES = 16;

/**
 * Return the bytes of a configuration section, from its type byte, with the subsections in QEMU's order.
 *
 * @throws RangeError for a machine name, a number of capabilities or a UUID that QEMU would not load.
 * @see QEMU `vmstate_configuration` in migration/savevm.c
 */
export function encodeConfiguration(configuration: Configuration): Buffer {
  const { targetPageBits, capabilities, uuid } = configuration;
  const machine = Buffer.from(configuration.machine);
  if (machine.length > LIMIT.MACHINE_NAME) {
    throw new RangeError(`a machine name of ${machine.length} bytes is too long`);
  }
  const parts: Uint8Array[] = [Uint8Array.of(ITEM.CONFIGURATION), be32(machine.length), machine];
  if (targetPageBits !== null) {
    parts.push(subsection('target-page-bits'), be32(targetPageBits));
  }
  if (capabilities.length > 0) {
    parts.push(subsection('capabilities'), be32(capabilities.length));
    for (const name of capabilities) parts.push(counted(name));
  }
  if (uuid !== null) {
    parts.push(subsection('uuid'), uuidBytes(uuid));
  }
  return Buffer.concat(parts);
}

/**
 * Return the 16 bytes of a UUID.
 *
 * @throws RangeError for text that is not a UUID.
 */
export function uuidBytes(uuid: string): Buffer {
  const bytes = Buffer.from(uuid.replaceAll('-', ''), 'hex');
  if (bytes.length !== UUID_BYTES) throw new RangeError(`"${uuid}" is not a UUID`);
  return bytes;
}

function subsection(name: string): Buffer {
  const type = Uint8Array.of(ITEM.SUBSECTION);
  return Buffer.concat([type, counted(`configuration/${name}`), be32(SUBSECTION_VERSION)]);
}
