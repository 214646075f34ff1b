import {
  pageButton,
  pageColour,
  pageCount,
  pageDraw,
  pageElement,
  pageExplore,
  pageHex,
  pageHideTip,
  pageLegend,
  pageNumber,
  pageShare,
  pageSize,
  pageSome,
  pageTable,
  pageText,
  pageTip,
} from './base.ts';
import { pageDevice, pageDevices, pageFind, pageIs, pageQuery, pageSearch } from './devices.ts';
import type { PageContent, PageDocument, PageElement, PageWindow } from './dom.ts';
import { pageEvent, pageEvents, pageEventText, pageStrip } from './events.ts';
import { pageHead, pageWarnings } from './head.ts';
import type { ReportData } from './model.ts';
import { pageBlock, pageBlockTable, pageMap, pageRam, pageTally } from './ram.ts';
import { pageKinds, pagePlot, pageRounds } from './rounds.ts';
import { pagePieces, pageSection, pageSections } from './sections.ts';
import {
  pageBytes,
  pageBytesGlance,
  pageDump,
  pageGlance,
  pageInteger,
  pageIsNested,
  pageMembers,
  pageOpens,
  pagePlain,
  pageValue,
} from './values.ts';

declare const document: PageDocument;
declare const window: PageWindow;

/** Builds the page out of the data in it. */
export function pageMain(): void {
  const root = document.documentElement;
  const fail = (error: unknown): string => {
    root.dataset.error = error instanceof Error ? error.message : String(error);
    return root.dataset.error;
  };
  window.addEventListener('error', ({ message }) => fail(message ?? 'an error'));
  const json = document.getElementById('report')?.textContent ?? '';
  const data = JSON.parse(json) as ReportData;

  const panels: [
    id: string,
    title: string,
    isThere: boolean,
    build: (data: ReportData) => PageContent[],
  ][] = [
    ['memory', 'Guest memory', data.blocks.length > 0, pageRam],
    ['rounds', 'Pages per round', data.rounds.length > 0, pageRounds],
    ['sections', 'Sections', data.sections.length > 0, pageSections],
    ['timeline', 'Stream order', data.events.length > 0, pageEvents],
    ['devices', 'Device state', data.devices.length > 0, pageDevices],
  ];
  const there = panels.filter(([, , isThere]) => isThere);
  const panel = ([id, title, , build]: (typeof panels)[number]): PageElement => {
    const section = pageElement('section', { id }, pageElement('h2', {}, title));
    // One part that fails must not take the others along.
    try {
      section.append(...build(data));
    } catch (error) {
      section.append(pageElement('p', { class: 'failed' }, `This cannot be shown: ${fail(error)}`));
    }
    return section;
  };
  const links = there.map(([id, title]) => pageElement('a', { href: `#${id}` }, title));
  const main = document.getElementById('main') as PageElement;
  main.replaceChildren(
    pageHead(data),
    ...(data.warnings.length > 0 ? [pageWarnings(data)] : []),
    pageElement('nav', { 'aria-label': 'Parts of this report' }, ...links),
    ...there.map(panel),
  );
  // After what draws itself as soon as it is in the page.
  window.setTimeout(() => {
    root.dataset.ready = 'yes';
  }, 0);
}

/** All that runs in a page. */
export const PAGE_FUNCTIONS: readonly ((...args: never[]) => unknown)[] = [
  ...[pageButton, pageColour, pageCount, pageDraw, pageElement, pageExplore, pageHex, pageHideTip],
  ...[pageLegend, pageNumber, pageShare, pageSize, pageSome, pageTable, pageText, pageTip],
  ...[pageHead, pageWarnings],
  ...[pageBlock, pageBlockTable, pageMap, pageRam, pageTally],
  ...[pageKinds, pagePlot, pageRounds],
  ...[pagePieces, pageSection, pageSections],
  ...[pageEvent, pageEvents, pageEventText, pageStrip],
  ...[pageBytes, pageBytesGlance, pageDump, pageGlance, pageInteger, pageIsNested, pageMembers],
  ...[pageOpens, pagePlain, pageValue],
  ...[pageDevice, pageDevices, pageFind, pageIs, pageQuery, pageSearch],
  pageMain,
];
