import {
  pageCount,
  pageElement,
  pageExplore,
  pageLegend,
  pageNumber,
  pageSize,
  pageSome,
} from './base.ts';
import type { PageContent, PageElement } from './dom.ts';
import type { EventRow, ReportData } from './model.ts';

/** The stream from its start to its end: as a strip, and as a list. */
export function pageEvents({ events, moreEvents, facts }: ReportData): PageContent[] {
  const list = pageElement('ol', { class: 'events' });
  const controls = pageElement('div');
  pageSome(list, controls, events, 40, pageEvent);
  const kinds = [
    ['start', 'start'],
    ['part', 'parts'],
    ['end', 'end'],
    ['full', 'device state'],
    ['command', 'command'],
  ] as const;
  const content = [
    pageLegend(kinds.filter(([kind]) => events.some((event) => event.kind === kind))),
    pageStrip(events, facts.bytes),
    list,
    controls,
  ];
  if (moreEvents > 0) {
    const rest = `${pageCount(moreEvents, 'later piece')} of sections and commands left out.`;
    content.push(pageElement('p', { class: 'quiet' }, rest));
  }
  return content;
}

/** What an entry says in one line. */
export function pageEventText({ kind, count, names, moreNames }: EventRow): string {
  const shown = names.map(([name, times]) =>
    times === 1 || names.length === 1 ? name : `${name} ×${pageNumber(times)}`,
  );
  const more = moreNames === 0 ? '' : ` and ${pageNumber(moreNames)} more`;
  const text = `${shown.join(', ')}${more}`;
  if (count === 1) return text;
  if (kind === 'command') return `${text}, ${pageNumber(count)} times`;
  return `${pageCount(count, kind === 'full' ? 'device' : kind)}: ${text}`;
}

/** One entry of the list. */
export function pageEvent(event: EventRow): PageElement {
  const { kind, offset, bytes, details } = event;
  const text = pageElement('span', { class: 'what' }, pageEventText(event));
  if (details.length === 1) text.append(pageElement('small', {}, details[0] as string));
  if (details.length > 1) {
    const more = event.count - details.length;
    text.append(
      pageElement(
        'details',
        {},
        pageElement('summary', {}, 'what they say'),
        ...details.map((detail) => pageElement('div', {}, detail)),
        ...(more > 0 ? [pageElement('div', {}, `and ${pageNumber(more)} more`)] : []),
      ),
    );
  }
  return pageElement(
    'li',
    {},
    pageElement('span', { class: 'at' }, pageNumber(offset)),
    pageElement('span', { class: 'kind' }, pageElement('span', { class: `swatch ${kind}` }), kind),
    text,
    pageElement('span', { class: 'size' }, pageSize(bytes)),
  );
}

/** The entries side by side, each as wide as it is long. */
export function pageStrip(events: readonly EventRow[], total: number): PageElement {
  const strip = pageElement('div', {
    class: 'strip',
    role: 'img',
    'aria-label': 'The stream from start to end; the list below says the same.',
  });
  const whole = Math.max(total, 1);
  for (const { kind, offset, bytes } of events) {
    const piece = pageElement('span', { class: kind });
    piece.style.setProperty('left', `${(100 * offset) / whole}%`);
    piece.style.setProperty('width', `${(100 * bytes) / whole}%`);
    strip.append(piece);
  }
  pageExplore(strip, (x) => {
    const at = (x / strip.clientWidth) * whole;
    const event = events.findLast(({ offset }) => offset <= at);
    if (event === undefined) return null;
    const { kind, offset, bytes } = event;
    return [
      `${kind} – ${pageEventText(event)}`,
      `from byte ${pageNumber(offset)}, ${pageSize(bytes)}`,
    ];
  });
  return strip;
}
