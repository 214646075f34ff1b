// Runs one bench in a process of its own, and gives its rows to the process that started this one.
import { fileURLToPath } from 'node:url';
import type { Bench } from './row.ts';

const [name, ...flags] = process.argv.slice(2);
const path = fileURLToPath(new URL(`../${name}.ts`, import.meta.url));
const { default: bench } = (await import(path)) as { default: Bench };
for await (const row of bench.run({ quick: flags.includes('--quick') })) process.send?.(row);
process.disconnect?.();
