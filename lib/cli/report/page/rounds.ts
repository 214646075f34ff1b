import uPlot from 'uplot';
import { keepDrawn, themeColour } from './drawing.ts';
import { type Content, makeButton, makeElement, makeTable } from './elements.ts';
import { formatNumber, formatShare } from './format.ts';
import type { PageCounts, ReportData, RoundData } from './model.ts';

/** Return the kinds of RAM records that occur, and their names. */
export function recordKinds(
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

/** Show the pages per round, as a chart and as a table. */
export function roundsPanel({ rounds }: ReportData): Content[] {
  const kinds = recordKinds(rounds.map(({ pages }) => pages));
  const chart = makeElement('div', { class: 'chart' });
  const name = ({ first, last }: RoundData): string =>
    first === last ? String(first) : `${first}–${last}`;
  const sum = ({ pages }: RoundData): number =>
    kinds.reduce((total, [kind]) => total + pages[kind], 0);
  const table = makeTable(
    'Pages per round',
    ['Round', ...kinds.map(([, text]) => text), 'total', 'share of zeros'],
    rounds,
    10,
    (round) => [
      name(round),
      ...kinds.map(([kind]) => formatNumber(round.pages[kind])),
      formatNumber(sum(round)),
      formatShare(round.pages.zero, sum(round)),
    ],
  );

  // The first round has all of memory, and makes the bars of the others too small to see.
  let shown = rounds;
  let plot: uPlot | undefined;
  const draw = (): void => {
    plot?.destroy();
    plot = plotRounds(chart, shown, kinds, name);
  };
  const all = makeButton('All rounds', () => choose(rounds));
  const later = makeButton('Without the first', () => choose(rounds.slice(1)));
  const choose = (some: RoundData[]): void => {
    shown = some;
    all.setAttribute('aria-pressed', String(some === rounds));
    later.setAttribute('aria-pressed', String(some !== rounds));
    draw();
  };
  const choice = makeElement('div', { class: 'choice' }, all, later);
  choice.hidden = rounds.length < 3;
  all.setAttribute('aria-pressed', 'true');
  later.setAttribute('aria-pressed', 'false');
  keepDrawn(chart, draw);
  return [choice, chart, table];
}

/** Draw stacked bars, from the top of the stack down: each bar covers the lower part of the previous one. */
function plotRounds(
  chart: HTMLElement,
  rounds: readonly RoundData[],
  kinds: readonly (readonly [kind: keyof PageCounts, text: string])[],
  name: (round: RoundData) => string,
): uPlot {
  const stack = kinds.map((_, at) =>
    rounds.map(({ pages }) =>
      kinds.slice(0, at + 1).reduce((total, [kind]) => total + pages[kind], 0),
    ),
  );
  const makeBars = uPlot.paths.bars as uPlot.Series.BarsPathBuilderFactory;
  const bars = makeBars({ size: [0.7, 72] });
  const series = kinds.map(([kind, text]) => ({
    label: text,
    fill: themeColour(kind),
    width: 0,
    paths: bars,
    points: { show: false },
    value: (_: unknown, __: unknown, ___: unknown, index: number | null) =>
      index === null ? '' : formatNumber(rounds[index]?.pages[kind] ?? 0),
  }));
  const label = (place: number): string => {
    const round = rounds[place - 1];
    return round === undefined ? '' : name(round);
  };
  const axis = {
    stroke: themeColour('quiet'),
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
          grid: { stroke: themeColour('line'), width: 1 },
          values: (_: unknown, counts: number[]) => counts.map(formatNumber),
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
