import type { VmDescription } from '../format/device-types.ts';
import { ITEM } from '../format/wire.ts';
import { bodySize } from './body-size.ts';
import { DescribedDevices } from './described-devices.ts';

const UTF8 = new TextDecoder('utf-8', { ignoreBOM: true });

/**
 * Return whether device sections match a description: stepping from one to the next by the described sizes
 * leads exactly to the end mark.
 *
 * @param tail - A part of a stream.
 * @param start - Index of the first section's type byte.
 * @param end - Index of the end mark.
 * @param hasFooters - Whether sections have footers.
 */
export function tailMatches(
  tail: Uint8Array,
  start: number,
  end: number,
  description: VmDescription,
  hasFooters: boolean,
): boolean {
  if (tail[end] !== ITEM.EOF) return false;
  const view = new DataView(tail.buffer, tail.byteOffset, tail.length);
  const footerBytes = hasFooters ? 5 : 0;
  const devices = new DescribedDevices(description.devices);

  let at = start;
  while (at < end) {
    const nameAt = at + 6;
    const nameLength = tail[at + 5] ?? 0;
    const bodyAt = nameAt + nameLength + 8;
    if (tail[at] !== ITEM.SECTION_FULL || bodyAt > end) return false;
    const name = UTF8.decode(tail.subarray(nameAt, nameAt + nameLength));
    const device = devices.take(name, view.getUint32(nameAt + nameLength));
    if (device === undefined || device.unusable !== undefined) return false;
    const footerAt = bodyAt + bodySize(device);
    if (footerAt + footerBytes > end) return false;
    if (hasFooters) {
      if (tail[footerAt] !== ITEM.FOOTER) return false;
      if (view.getUint32(footerAt + 1) !== view.getUint32(at + 1)) return false;
    }
    at = footerAt + footerBytes;
  }
  return at === end;
}
