// Run benches, each in its own process, and print one table.
//
//   npm run bench                        all
//   npm run bench typed-puts limiter     some
//   npm run bench -- --quick --json      all, within a minute, for programs
//   npm run bench -- --compare a.json    all, beside an earlier run with --json
import { fork } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import Table from 'cli-table3';
import { Command } from 'commander';
import { type Slower, slowerRows } from './harness/compare.ts';
import { machine } from './harness/machine.ts';
import type { Row } from './harness/row.ts';

const ONE = fileURLToPath(new URL('harness/one.ts', import.meta.url));
const ALL = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith('.ts') && file !== 'main.ts')
  .map((file) => file.slice(0, -3))
  .sort();

/** Yield the rows of one bench as soon as they are measured. */
async function runBench(name: string, quick: boolean, onRow: (row: Row) => void): Promise<void> {
  const child = fork(ONE, quick ? [name, '--quick'] : [name], {
    execArgv: ['--expose-gc', '--import', 'tsx'],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  child.on('message', (row) => onRow(row as Row));
  // It has folders to remove.
  const pass = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.on('SIGTERM', pass).on('SIGINT', pass);
  const code = await new Promise((resolve) => child.once('close', resolve));
  process.off('SIGTERM', pass).off('SIGINT', pass);
  if (code !== 0) throw new Error(`the bench ${name} ended with ${String(code)}`);
}

/** Format a number with three significant digits; large numbers as integers. */
function short(value: number | null): string {
  if (value === null) return 'missing';
  if (value === 0) return '0';
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
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

function tableOf(rows: readonly Row[]): string {
  const table = new Table({
    head: ['row', 'qemu-file', 'spread', 'against', 'ratio', 'must reach', 'ok'],
    style: { head: [], border: [], compact: true },
  });
  table.push(...rows.map(cellsOf));
  return table.toString();
}

/** A bench that seems slower is run again, so that a noisy moment is not taken for a regression. */
const MAX_RUNS = 3;

interface Flags {
  quick?: true;
  json?: true;
  compare?: string;
  tolerance?: number;
}

/** Run a bench, again if rows are slower than before; add its rows, and return those always slower. */
async function measure(
  name: string,
  flags: Flags,
  before: readonly Row[],
  rows: Row[],
): Promise<Slower[]> {
  let slower: Slower[] = [];
  for (let run = 0; run < MAX_RUNS; run++) {
    const measured: Row[] = [];
    await runBench(name, flags.quick === true, (row) => measured.push(row));
    if (run === 0) rows.push(...measured);
    const found = slowerRows(before, measured, flags.tolerance);
    slower = run === 0 ? found : slower.filter((row) => found.some((one) => one.name === row.name));
    if (slower.length === 0) break;
  }
  return slower;
}

function print(rows: readonly Row[], json: boolean): void {
  const where = machine();
  if (json) {
    console.log(JSON.stringify({ machine: where, rows }, null, 2));
    return;
  }
  const tools = Object.entries(where.tools).map(
    ([tool, version]) => `${tool} ${version ?? 'missing'}`,
  );
  console.log(`Node ${where.node}, ${where.cores} × ${where.cpu}, Linux ${where.kernel}`);
  console.log(tools.join(', '));
  console.log(tableOf(rows));
}

async function main(names: string[], flags: Flags): Promise<void> {
  const unknown = names.filter((name) => !ALL.includes(name));
  if (unknown.length > 0) {
    console.error(`no such bench: ${unknown.join(', ')}; there are: ${ALL.join(', ')}`);
    process.exitCode = 2;
    return;
  }
  const before: Row[] =
    flags.compare === undefined
      ? []
      : (JSON.parse(readFileSync(flags.compare, 'utf8')) as { rows: Row[] }).rows;
  const rows: Row[] = [];
  const slower: Slower[] = [];
  for (const name of names.length > 0 ? names : ALL) {
    if (!flags.json) console.error(`${name} …`);
    slower.push(...(await measure(name, flags, before, rows)));
  }
  print(rows, flags.json === true);
  for (const { name, factor } of slower) {
    console.error(`slower than in ${flags.compare}: ${name}, ${factor.toFixed(2)} ×`);
  }
  if (slower.length > 0) process.exitCode = 1;
}

await new Command('npm run bench --')
  .description('Measure qemu-file beside the floor and its peers.')
  .argument('[name...]', `any of: ${ALL.join(', ')}`)
  .option('--quick', 'run everything within a minute, to see that it works')
  .option('--json', 'print one JSON object')
  .option('--compare <file>', 'an earlier run with --json; exit code 1 if a row became slower')
  .option('--tolerance <factor>', 'compare ratios only, and allow this factor', Number)
  .action(main)
  .parseAsync();
