import type { VmDescription } from '../format/device-types.ts';
import { ITEM } from '../format/wire.ts';
import { bodySize } from './body-size.ts';
import { DescribedDevices } from './described-devices.ts';

const UTF8 = new TextDecoder('utf-8', { ignoreBOM: true });

/**
 * Tells whether a row of device sections is as a description says: from one to the next by the sizes of
 * their bodies, exactly to the end mark of the stream.
 *
 * @param tail - A part of a stream.
 * @param start - Index in it of the first section's type byte.
 * @param end - Index in it of the end mark.
 * @param footers - Whether sections have footers.
 */
export function tailMatches(
  tail: Uint8Array,
  start: number,
  end: number,
  description: VmDescription,
  footers: boolean,
): boolean {
  if (tail[end] !== ITEM.EOF) return false;
  const view = new DataView(tail.buffer, tail.byteOffset, tail.length);
  const footerSize = footers ? 5 : 0;
  const devices = new DescribedDevices(description.devices);

  let at = start;
  while (at < end) {
    const nameAt = at + 6;
    const nameLength = tail[at + 5] ?? 0;
    const bodyAt = nameAt + nameLength + 8;
    if (tail[at] !== ITEM.SECTION_FULL || bodyAt > end) return false;
    const name = UTF8.decode(tail.subarray(nameAt, nameAt + nameLength));
    const device = devices.take(name, view.getUint32(nameAt + nameLength));
    if (device === undefined) return false;
    const footerAt = bodyAt + bodySize(device);
    if (footerAt + footerSize > end) return false;
    if (footers) {
      if (tail[footerAt] !== ITEM.FOOTER) return false;
      if (view.getUint32(footerAt + 1) !== view.getUint32(at + 1)) return false;
    }
    at = footerAt + footerSize;
  }
  return at === end;
}
