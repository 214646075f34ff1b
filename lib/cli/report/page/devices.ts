import { appendInSteps, type Content, makeDetails, makeElement } from './elements.ts';
import { formatCount, formatNumber, formatSize } from './format.ts';
import type { DeviceRow, ReportData } from './model.ts';
import { type Hit, makeSearchPanel, type Query, type Results, searchValue } from './search.ts';
import { appendMembers, isNested, valueView } from './values.ts';

/** Show the state of devices, with a search field. */
export function devicesPanel({ devices, moreDevices }: ReportData): Content[] {
  return makeSearchPanel('apic, 0x1f0, 4096, 0xdeadbeef …', moreDevices, (query, results) =>
    showMatches(devices, query, results),
  );
}

/** Show the devices that match a query, or all of them if it is empty. */
function showMatches(
  devices: readonly DeviceRow[],
  query: Query,
  { list, summary }: Results,
): void {
  if (query.text === '') {
    summary.textContent = `${formatCount(devices.length, 'device')}. Search for a part of a name, a whole number (decimal or 0x…), or a sequence of bytes.`;
    appendInSteps(list, list, devices, 100, (device) => deviceView(device, []));
    return;
  }
  const most = 20;
  const matches = devices.flatMap((device) => {
    const hits: Hit[] = [];
    // One more than is shown, to know whether there are more.
    if (device.state !== undefined) searchValue(device.state, query, '', hits, most + 1);
    const isNamed = device.name.toLowerCase().includes(query.text);
    return isNamed || hits.length > 0 ? [{ device, hits }] : [];
  });
  const fields = matches.reduce((sum, { hits }) => sum + Math.min(hits.length, most), 0);
  const isMore = matches.some(({ hits }) => hits.length > most);
  summary.textContent = `${formatCount(matches.length, 'device')}, ${isMore ? 'more than ' : ''}${formatCount(fields, 'field')}`;
  appendInSteps(list, list, matches, 50, ({ device, hits }) => {
    const element = deviceView(device, hits.slice(0, most));
    if (hits.length > most)
      element.append(
        makeElement('p', { class: 'quiet' }, `Only the first ${formatNumber(most)} are shown.`),
      );
    return element;
  });
}

/** Show a device, and the hits in it. */
function deviceView({ name, bytes, state }: DeviceRow, hits: readonly Hit[]): HTMLElement {
  const title = [
    makeElement('span', { class: 'key' }, name),
    makeElement('span', { class: 'quiet' }, bytes === null ? '' : formatSize(bytes)),
  ];
  const device = makeDetails(title, (into) => {
    if (state === undefined)
      into.append(
        makeElement(
          'p',
          { class: 'quiet' },
          'Too large for this page; "qemu-file inspect --json" prints it.',
        ),
      );
    else if (isNested(state)) appendMembers(into, state);
    else into.append(valueView('state', state));
  });
  const found = makeElement(
    'div',
    { class: 'hits' },
    ...hits.map(({ path, value }) => valueView(path, value)),
  );
  return makeElement('div', { class: 'device' }, device, ...(hits.length > 0 ? [found] : []));
}
