/*
 * The script of a report's page. The build bundles it, with everything that it imports, into the page.
 */
import { devicesPanel } from './devices.ts';
import { diffConfigurationPanel, diffDevicesPanel } from './diff/devices.ts';
import { makeDiffHeader } from './diff/header.ts';
import { diffMemoryPanel } from './diff/memory.ts';
import { type Content, makeElement } from './elements.ts';
import { makeHeader, warningsPanel } from './header.ts';
import { memoryPanel } from './memory.ts';
import type { DiffData, ReportData } from './model.ts';
import { roundsPanel } from './rounds.ts';
import { sectionsPanel } from './sections.ts';
import { timelinePanel } from './timeline.ts';

interface Panel<Data> {
  id: string;
  title: string;
  hasContent: (data: Data) => boolean;
  build: (data: Data) => Content[];
}

/** The parts of a page about a stream. */
const PANELS: readonly Panel<ReportData>[] = [
  {
    id: 'memory',
    title: 'Guest memory',
    hasContent: ({ blocks }) => blocks.length > 0,
    build: memoryPanel,
  },
  {
    id: 'rounds',
    title: 'Pages per round',
    hasContent: ({ rounds }) => rounds.length > 0,
    build: roundsPanel,
  },
  {
    id: 'sections',
    title: 'Sections',
    hasContent: ({ sections }) => sections.length > 0,
    build: sectionsPanel,
  },
  {
    id: 'timeline',
    title: 'Stream order',
    hasContent: ({ events }) => events.length > 0,
    build: timelinePanel,
  },
  {
    id: 'devices',
    title: 'Device state',
    hasContent: ({ devices }) => devices.length > 0,
    build: devicesPanel,
  },
];

/** The parts of a page about the differences of two guests. */
const DIFF_PANELS: readonly Panel<DiffData>[] = [
  {
    id: 'configuration',
    title: 'Configuration',
    hasContent: ({ configuration }) => configuration.length > 0,
    build: diffConfigurationPanel,
  },
  {
    id: 'memory',
    title: 'Guest memory',
    hasContent: ({ blocks }) => blocks.length > 0,
    build: diffMemoryPanel,
  },
  {
    id: 'devices',
    title: 'Device state',
    hasContent: ({ devices }) => devices.length > 0,
    build: diffDevicesPanel,
  },
];

const root: HTMLElement = document.documentElement;

/** Note an error on the root element, where tests look for it, and return its message. */
function noteError(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  root.dataset.error = message;
  return message;
}

function showPanel<Data>({ id, title, build }: Panel<Data>, data: Data): HTMLElement {
  const section = makeElement('section', { id }, makeElement('h2', {}, title));
  // A panel that fails leaves the others as they are.
  try {
    section.append(...build(data));
  } catch (error) {
    const text = `This part cannot be shown: ${noteError(error)}`;
    section.append(makeElement('p', { class: 'failed' }, text));
  }
  return section;
}

function showPanels<Data>(
  head: readonly HTMLElement[],
  panels: readonly Panel<Data>[],
  data: Data,
): void {
  const shown = panels.filter(({ hasContent }) => hasContent(data));
  const links = shown.map(({ id, title }) => makeElement('a', { href: `#${id}` }, title));
  const main = document.getElementById('main') as HTMLElement;
  main.replaceChildren(
    ...head,
    makeElement('nav', { 'aria-label': 'Parts of this report' }, ...links),
    ...shown.map((panel) => showPanel(panel, data)),
  );
}

function showPage(): void {
  const json = document.getElementById('report')?.textContent ?? '';
  const data = JSON.parse(json) as ReportData | DiffData;
  if ('isSame' in data) {
    showPanels([makeDiffHeader(data)], DIFF_PANELS, data);
  } else {
    const warnings = data.warnings.length > 0 ? [warningsPanel(data)] : [];
    showPanels([makeHeader(data), ...warnings], PANELS, data);
  }
  // Drawings draw themselves once they are in the page; "ready" comes after them.
  window.setTimeout(() => {
    root.dataset.ready = 'yes';
  }, 0);
}

window.addEventListener('error', ({ message }) => noteError(message));
showPage();
