// Run one bench and send its rows to the parent process.
import { fileURLToPath } from 'node:url';
import type { Bench } from './row.ts';

const [name, ...flags] = process.argv.slice(2);
const path = fileURLToPath(new URL(`../${name}.ts`, import.meta.url));
const { default: bench } = (await import(path)) as { default: Bench };
for await (const row of bench.run({ quick: flags.includes('--quick') })) process.send?.(row);
process.disconnect?.();
