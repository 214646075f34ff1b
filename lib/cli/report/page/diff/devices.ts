import { appendInSteps, type Content, makeElement } from '../elements.ts';
import { formatCount, formatHex, formatNumber } from '../format.ts';
import type { DeviceDifferenceRow, DiffData, FieldDifferenceRow, PackedValue } from '../model.ts';
import { type Hit, makeSearchPanel, type Query, type Results, searchValue } from '../search.ts';
import { isNested, plainText, unpackBytes, unpackInteger, valueView } from '../values.ts';

/** Fields of a device that are shown at first. */
const FIRST_FIELDS = 20;

/** Show the fields of the configuration that differ. */
export function diffConfigurationPanel({ configuration }: DiffData): Content[] {
  return [fieldList(configuration)];
}

/** Show the devices that differ, with a search field. */
export function diffDevicesPanel({ devices, moreDevices }: DiffData): Content[] {
  return makeSearchPanel('timer, cpu_clock, 0x1f0, 4096 …', moreDevices, (query, results) =>
    showMatches(devices, query, results),
  );
}

/** Show the devices that match a query, with the fields that match, or everything if the query is empty. */
function showMatches(
  devices: readonly DeviceDifferenceRow[],
  query: Query,
  { list, summary }: Results,
): void {
  const matches = devices.flatMap((device) => {
    if (query.text === '' || device.name.toLowerCase().includes(query.text)) return [device];
    const fields = device.fields.filter((field) => matchesField(field, query));
    return fields.length > 0 ? [{ ...device, fields, moreFields: 0 }] : [];
  });
  const fields = matches.reduce((sum, device) => sum + device.fields.length, 0);
  summary.textContent = `${formatCount(matches.length, 'device')}, ${formatCount(fields, 'field')}`;
  appendInSteps(list, list, matches, 50, deviceView);
}

function matchesField({ path, a, b }: FieldDifferenceRow, query: Query): boolean {
  if (path.toLowerCase().includes(query.text)) return true;
  const hits: Hit[] = [];
  for (const value of [a, b]) if (value !== undefined) searchValue(value, query, '', hits, 1);
  return hits.length > 0;
}

function deviceView({ name, note, fields, moreFields }: DeviceDifferenceRow): HTMLElement {
  const head = makeElement(
    'h3',
    {},
    makeElement('span', { class: 'key' }, name),
    makeElement('span', { class: 'quiet' }, note === '' ? '' : ` ${note}`),
  );
  const device = makeElement('div', { class: 'device' }, head);
  if (fields.length > 0) device.append(fieldList(fields));
  if (moreFields > 0) {
    const rest = `${formatNumber(moreFields)} more fields differ; "qemu-file diff --json" prints them.`;
    device.append(makeElement('p', { class: 'quiet' }, rest));
  }
  return device;
}

function fieldList(fields: readonly FieldDifferenceRow[]): HTMLElement {
  const list = makeElement('div', { class: 'differences' });
  appendInSteps(list, list, fields, FIRST_FIELDS, ({ path, a, b }) =>
    makeElement(
      'div',
      { class: 'difference' },
      makeElement('span', { class: 'key' }, path === '' ? 'not decoded' : path),
      sideView('A', a),
      sideView('B', b),
    ),
  );
  return list;
}

/** Show the value of one side. */
function sideView(side: string, value: PackedValue | undefined): HTMLElement {
  if (value === undefined) return makeElement('span', { class: 'quiet' }, 'none');
  if (isNested(value) || unpackBytes(value) !== null) {
    return makeElement('div', {}, valueView(side, value));
  }
  const integer = unpackInteger(value);
  const hex = integer === null ? '' : ` ${formatHex(integer)}`;
  return makeElement(
    'span',
    { class: 'plain' },
    plainText(value),
    makeElement('span', { class: 'hex' }, hex),
  );
}
