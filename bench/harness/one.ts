// Run one bench and send its rows to the parent process.
import type { Bench } from './row.ts';

const [name, ...flags] = process.argv.slice(2);
const { default: bench } = (await import(`../${name}.js`)) as { default: Bench };
for await (const row of bench.run({ quick: flags.includes('--quick') })) process.send?.(row);
process.disconnect?.();
