import type { PageCounts } from '../../../migration/format/events.ts';
import {
  pageButton,
  pageColour,
  pageDraw,
  pageElement,
  pageNumber,
  pageShare,
  pageTable,
} from './base.ts';
import type { PageChart, PageCharts, PageContent, PageElement } from './dom.ts';
import type { ReportData, RoundData } from './model.ts';

declare const uPlot: PageCharts;

/** The kinds of records that there are, and what they are called. */
export function pageKinds(
  counts: readonly (PageCounts | null)[],
): (readonly [kind: keyof PageCounts, text: string])[] {
  const kinds = [
    ['zero', 'zeros'],
    ['normal', 'normal'],
    ['xbzrle', 'XBZRLE'],
    ['compressed', 'compressed'],
    ['multifd', 'multifd'],
  ] as const;
  return kinds.filter(([kind]) => counts.some((count) => (count?.[kind] ?? 0) > 0));
}

/** Pages per round, as a chart and as a table. */
export function pageRounds({ rounds }: ReportData): PageContent[] {
  const kinds = pageKinds(rounds.map(({ pages }) => pages));
  const chart = pageElement('div', { class: 'chart' });
  const name = ({ first, last }: RoundData): string =>
    first === last ? String(first) : `${first}–${last}`;
  const sum = ({ pages }: RoundData): number =>
    kinds.reduce((total, [kind]) => total + pages[kind], 0);
  const table = pageTable(
    'Pages per round',
    ['Round', ...kinds.map(([, text]) => text), 'together', 'share of zeros'],
    rounds,
    10,
    (round) => [
      name(round),
      ...kinds.map(([kind]) => pageNumber(round.pages[kind])),
      pageNumber(sum(round)),
      pageShare(round.pages.zero, sum(round)),
    ],
  );

  // The first round has all of memory: beside it the others can hardly be seen.
  let shown = rounds;
  let plot: PageChart | undefined;
  const draw = (): void => {
    plot?.destroy();
    plot = pagePlot(chart, shown, kinds, name);
  };
  const all = pageButton('All rounds', () => choose(rounds));
  const later = pageButton('Without the first', () => choose(rounds.slice(1)));
  const choose = (some: RoundData[]): void => {
    shown = some;
    all.setAttribute('aria-pressed', String(some === rounds));
    later.setAttribute('aria-pressed', String(some !== rounds));
    draw();
  };
  const choice = pageElement('div', { class: 'choice' }, all, later);
  choice.hidden = rounds.length < 3;
  all.setAttribute('aria-pressed', 'true');
  later.setAttribute('aria-pressed', 'false');
  pageDraw(chart, draw);
  return [choice, chart, table];
}

/** Draws bars, stacked, from the top of the stack down: each covers the lower part of the one before. */
export function pagePlot(
  chart: PageElement,
  rounds: readonly RoundData[],
  kinds: readonly (readonly [kind: keyof PageCounts, text: string])[],
  name: (round: RoundData) => string,
): PageChart {
  const stack = kinds.map((_, at) =>
    rounds.map(({ pages }) =>
      kinds.slice(0, at + 1).reduce((total, [kind]) => total + pages[kind], 0),
    ),
  );
  const bars = uPlot.paths.bars({ size: [0.7, 72] });
  const series = kinds.map(([kind, text]) => ({
    label: text,
    fill: pageColour(kind),
    width: 0,
    paths: bars,
    points: { show: false },
    value: (_: unknown, __: unknown, ___: unknown, index: number | null) =>
      index === null ? '' : pageNumber(rounds[index]?.pages[kind] ?? 0),
  }));
  const label = (place: number): string => {
    const round = rounds[place - 1];
    return round === undefined ? '' : name(round);
  };
  const axis = {
    stroke: pageColour('quiet'),
    font: '12px system-ui, sans-serif',
    ticks: { show: false },
  };
  return new uPlot(
    {
      width: Math.max(chart.clientWidth, 120),
      height: 260,
      padding: [12, 8, 0, 0],
      legend: { show: true },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: {
        x: { time: false, range: () => [0.4, rounds.length + 0.6] },
        y: { range: (_: unknown, __: number, most: number) => [0, most > 0 ? most * 1.05 : 1] },
      },
      axes: [
        {
          ...axis,
          size: 32,
          space: 90,
          grid: { show: false },
          incrs: [1, 2, 5, 10, 20, 50, 100],
          values: (_: unknown, places: number[]) => places.map(label),
        },
        {
          ...axis,
          size: 72,
          grid: { stroke: pageColour('line'), width: 1 },
          values: (_: unknown, counts: number[]) => counts.map(pageNumber),
        },
      ],
      series: [
        {
          label: 'Round',
          value: (_: unknown, place: number | null) => (place === null ? '' : label(place)),
        },
        ...series.reverse(),
      ],
    },
    [rounds.map((_, at) => at + 1), ...stack.reverse()],
    chart,
  );
}
