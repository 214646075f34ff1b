import { explainUnderPointer } from './drawing.ts';
import { appendInSteps, type Content, makeElement, makeLegend } from './elements.ts';
import { formatCount, formatNumber, formatSize } from './format.ts';
import type { EventRow, ReportData } from './model.ts';

/** Show the stream from its start to its end: as a strip, and as a list. */
export function timelinePanel({ events, moreEvents, facts }: ReportData): Content[] {
  const list = makeElement('ol', { class: 'events' });
  const controls = makeElement('div');
  appendInSteps(list, controls, events, 40, eventItem);
  const kinds = [
    ['start', 'start'],
    ['part', 'parts'],
    ['end', 'end'],
    ['full', 'device state'],
    ['command', 'command'],
  ] as const;
  const content = [
    makeLegend(kinds.filter(([kind]) => events.some((event) => event.kind === kind))),
    eventStrip(events, facts.bytes),
    list,
    controls,
  ];
  if (moreEvents > 0) {
    const rest = `${formatCount(moreEvents, 'later piece')} of sections and commands left out.`;
    content.push(makeElement('p', { class: 'quiet' }, rest));
  }
  return content;
}

/** Describe an entry in one line. */
function describeEvent({ kind, count, names, moreNames }: EventRow): string {
  const shown = names.map(([name, times]) =>
    times === 1 || names.length === 1 ? name : `${name} ×${formatNumber(times)}`,
  );
  const more = moreNames === 0 ? '' : ` and ${formatNumber(moreNames)} more`;
  const text = `${shown.join(', ')}${more}`;
  if (count === 1) return text;
  if (kind === 'command') return `${text}, ${formatNumber(count)} times`;
  return `${formatCount(count, kind === 'full' ? 'device' : kind)}: ${text}`;
}

/** Make one entry of the list. */
function eventItem(event: EventRow): HTMLElement {
  const { kind, offset, bytes, details } = event;
  const text = makeElement('span', { class: 'what' }, describeEvent(event));
  if (details.length === 1) text.append(makeElement('small', {}, details[0] as string));
  if (details.length > 1) {
    const more = event.count - details.length;
    text.append(
      makeElement(
        'details',
        {},
        makeElement('summary', {}, 'details'),
        ...details.map((detail) => makeElement('div', {}, detail)),
        ...(more > 0 ? [makeElement('div', {}, `and ${formatNumber(more)} more`)] : []),
      ),
    );
  }
  return makeElement(
    'li',
    {},
    makeElement('span', { class: 'at' }, formatNumber(offset)),
    makeElement('span', { class: 'kind' }, makeElement('span', { class: `swatch ${kind}` }), kind),
    text,
    makeElement('span', { class: 'size' }, formatSize(bytes)),
  );
}

/** Make a strip of all entries side by side, the width of each in proportion to its bytes. */
function eventStrip(events: readonly EventRow[], total: number): HTMLElement {
  const strip = makeElement('div', {
    class: 'strip',
    role: 'img',
    'aria-label': 'The stream from start to end; the list below has the same entries.',
  });
  const whole = Math.max(total, 1);
  for (const { kind, offset, bytes } of events) {
    const piece = makeElement('span', { class: kind });
    piece.style.setProperty('left', `${(100 * offset) / whole}%`);
    piece.style.setProperty('width', `${(100 * bytes) / whole}%`);
    strip.append(piece);
  }
  explainUnderPointer(strip, (x) => {
    const at = (x / strip.clientWidth) * whole;
    const event = events.filter(({ offset }) => offset <= at).at(-1);
    if (event === undefined) return null;
    const { kind, offset, bytes } = event;
    return [
      `${kind} – ${describeEvent(event)}`,
      `from byte ${formatNumber(offset)}, ${formatSize(bytes)}`,
    ];
  });
  return strip;
}
