// The table of a bench.
import Table from 'cli-table3';
import type { Machine } from './machine.ts';
import type { Row } from './row.ts';

/** Return the line that names the machine and the tools. */
export function machineLine({ node, cores, cpu, kernel, tools }: Machine): string {
  const versions = Object.entries(tools).map(
    ([tool, version]) => `${tool} ${version ?? 'missing'}`,
  );
  return [`Node ${node}`, `${cores} × ${cpu}`, `Linux ${kernel}`, ...versions].join(', ');
}

/** Return rows as a table. */
export function tableOf(rows: readonly Row[]): string {
  const table = new Table({
    head: ['row', 'qemu-file', 'spread', 'against', 'ratio', 'must reach', 'ok'],
    style: { head: [], border: [], compact: true },
  });
  table.push(...rows.map(cellsOf));
  return table.toString();
}

function cellsOf(row: Row): string[] {
  const verdict = row.ok === null ? (row.mustReach === '' ? '' : '?') : row.ok ? 'yes' : 'NO';
  return [
    row.name,
    `${short(row.value)} ${row.unit}`,
    `±${(row.spread * 100).toFixed(0)} %`,
    row.against.map(({ name, value }) => `${name} ${short(value)}`).join('\n'),
    row.ratio === null ? '' : row.ratio.toFixed(2),
    row.mustReach,
    verdict,
  ];
}

/** Format a number with three significant digits; large numbers as integers. */
function short(value: number | null): string {
  if (value === null) return 'missing';
  if (value === 0) return '0';
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
