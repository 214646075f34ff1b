import { stateToJson } from '../../../migration/devices/state-decoder.ts';
import type { BlockDifference } from '../../../migration/diff/block-differences.ts';
import type { GuestDifferences } from '../../../migration/diff/compare-guests.ts';
import type { DeviceDifference } from '../../../migration/diff/device-differences.ts';
import type { FieldDifference } from '../../../migration/diff/field-differences.ts';
import type { StateValue } from '../../../migration/format/device-types.ts';

/** Ranges in one piece of the text. */
const RANGES_PER_PIECE = 4096;

/** Yield the differences as the pieces of one JSON object: a list of ranges may be too long for one text. */
export function* differencesToJson({
  isSame,
  configuration,
  devices,
  blocks,
}: GuestDifferences): Generator<string> {
  const head = {
    same: isSame,
    ...(configuration.length === 0 ? {} : { configuration: configuration.map(fieldToJson) }),
    devices: devices.map(deviceToJson),
  };
  yield `${JSON.stringify(head).slice(0, -1)},"blocks":[`;
  let separator = '';
  for (const block of blocks) {
    if (!block.isDifferent) continue;
    yield separator;
    yield* blockToJson(block);
    separator = ',';
  }
  yield ']}\n';
}

function* blockToJson({ name, usedLength, pages, ranges }: BlockDifference): Generator<string> {
  yield `${JSON.stringify({ name, usedLength, pages }).slice(0, -1)},"ranges":[`;
  let texts: string[] = [];
  let separator = '';
  for (const range of ranges()) {
    texts.push(JSON.stringify(range));
    if (texts.length < RANGES_PER_PIECE) continue;
    yield separator + texts.join(',');
    separator = ',';
    texts = [];
  }
  if (texts.length > 0) yield separator + texts.join(',');
  yield ']}';
}

function deviceToJson(device: DeviceDifference): object {
  const { name, instanceId, onlyIn, versionIds, fields, moreFields } = device;
  return {
    name,
    instanceId,
    ...(onlyIn === null ? {} : { onlyIn }),
    ...(versionIds === null ? {} : { versionIds }),
    fields: fields.map(fieldToJson),
    ...(moreFields === 0 ? {} : { moreFields }),
  };
}

function fieldToJson({ path, a, b }: FieldDifference): object {
  return { path, a: valueToJson(a), b: valueToJson(b) };
}

/** Return a value as `inspect` prints it; null for a field that is not there. */
export function valueToJson(value: StateValue | undefined): unknown {
  if (value === undefined) return null;
  return (stateToJson({ value }) as { value: unknown }).value;
}
