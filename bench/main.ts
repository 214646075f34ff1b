// Run benches, each in its own process, and print the table of each as soon as it has ended.
//
//   npm run bench                        all
//   npm run bench typed-puts limiter     some
//   npm run bench -- --quick --json      all, within two minutes, for programs
//   npm run bench -- --compare a.json    all, beside an earlier run with --json
import { fork } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { Command } from 'commander';
import { type Slower, slowerRows } from './harness/compare.ts';
import { machine } from './harness/machine.ts';
import { pathOf } from './harness/paths.ts';
import type { Row } from './harness/row.ts';
import { machineLine, tableOf } from './harness/table.ts';

const ONE = pathOf('dist/bench/harness/one.js');
const ALL = readdirSync(pathOf('bench'))
  .filter((file) => file.endsWith('.ts') && file !== 'main.ts')
  .map((file) => file.slice(0, -3))
  .sort();

/** A bench that takes longer hangs. */
const MAX_BENCH_MS = 15 * 60_000;

/** A bench that seems slower is run again, so that a noisy moment is not taken for a regression. */
const MAX_RUNS = 3;

interface Flags {
  quick?: true;
  json?: true;
  compare?: string;
  tolerance?: number;
}

/** What a bench measured. */
interface Outcome {
  rows: Row[];
  /** Rows that were slower than before, each time. */
  slower: Slower[];
  hasFailed: boolean;
}

const stop = new AbortController();
process.on('SIGTERM', () => stop.abort()).on('SIGINT', () => stop.abort());

/** Run one bench; return the rows that it measured, and whether it failed. */
async function runBench(name: string, quick: boolean): Promise<Omit<Outcome, 'slower'>> {
  const child = fork(ONE, quick ? [name, '--quick'] : [name], {
    execArgv: ['--expose-gc'],
    // Standard output has the tables and nothing else.
    stdio: ['ignore', 2, 'inherit', 'ipc'],
    // The bench ends its own processes and removes its folders when it gets a SIGTERM.
    timeout: MAX_BENCH_MS,
    signal: stop.signal,
  });
  const rows: Row[] = [];
  child.on('message', (row) => rows.push(row as Row));
  // A bench that is stopped ends as well.
  child.on('error', () => {});
  const code = await new Promise((resolve) => child.once('close', resolve));
  return { rows, hasFailed: code !== 0 };
}

/** Run a bench, again if rows are slower than before. */
async function measure(name: string, flags: Flags, before: readonly Row[]): Promise<Outcome> {
  const first = await runBench(name, flags.quick === true);
  let slower = slowerRows(before, first.rows, flags.tolerance);
  for (let run = 1; run < MAX_RUNS && slower.length > 0 && !first.hasFailed; run++) {
    const { rows } = await runBench(name, flags.quick === true);
    const found = slowerRows(before, rows, flags.tolerance);
    slower = slower.filter((row) => found.some((one) => one.name === row.name));
  }
  return { ...first, slower };
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
  const where = machine();
  if (!flags.json) console.log(machineLine(where));
  const all: Row[] = [];
  const remarks: string[] = [];
  for (const name of names.length > 0 ? names : ALL) {
    if (stop.signal.aborted) break;
    console.error(`${name} …`);
    const began = performance.now();
    const { rows, slower, hasFailed } = await measure(name, flags, before);
    const seconds = Math.round((performance.now() - began) / 1000);
    if (!flags.json)
      console.log(
        `\n${name}, ${seconds} s${rows.length > 0 ? `\n${tableOf(rows)}` : ': nothing measured'}`,
      );
    all.push(...rows);
    for (const row of slower) {
      remarks.push(`slower than in ${flags.compare}: ${row.name}, ${row.factor.toFixed(2)} ×`);
    }
    if (hasFailed) remarks.push(`the bench ${name} failed`);
  }
  if (flags.json) console.log(JSON.stringify({ machine: where, rows: all }, null, 2));
  for (const remark of remarks) console.error(remark);
  if (remarks.length > 0 || stop.signal.aborted) process.exitCode = 1;
}

await new Command('npm run bench --')
  .description('Measure qemu-file beside the floor and its peers.')
  .argument('[name...]', `any of: ${ALL.join(', ')}`)
  .option('--quick', 'run everything in short, to see that it works')
  .option('--json', 'print one JSON object')
  .option('--compare <file>', 'an earlier run with --json; exit code 1 if a row became slower')
  .option('--tolerance <factor>', 'compare ratios only, and allow this factor', Number)
  .action(main)
  .parseAsync();
