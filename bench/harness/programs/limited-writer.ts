// Writes to standard output at a limited rate, as bench/limiter.ts asks: through a QemuFile, or through
// stream-throttle. A plan is a list of rates and their durations.
import { openTo } from 'qemu-file/adapters';
import { Throttle } from 'stream-throttle';

const [who, size = '65536', ...plan] = process.argv.slice(2);
const chunk = Buffer.alloc(Number(size), 0xa5);
const rates = plan.map((step) => {
  const [rate = 0, seconds = 0] = step.split('x').map(Number);
  return { rate, seconds };
});
const first = rates[0]?.rate ?? 0;

async function ours(): Promise<void> {
  const file = await openTo('-', { file: { maxBandwidth: first } });
  let after = 0;
  for (const { rate, seconds } of rates) {
    if (after > 0) {
      setTimeout(() => {
        file.maxBandwidth = rate;
      }, after * 1000);
    }
    after += seconds;
  }
  for (;;) if (!file.write(chunk)) await file.drain();
}

async function theirs(): Promise<void> {
  const throttle = new Throttle({ rate: first });
  throttle.pipe(process.stdout);
  for (;;) {
    if (!throttle.write(chunk)) await new Promise((resolve) => throttle.once('drain', resolve));
  }
}

process.stdout.on('error', () => process.exit());
await (who === 'throttle' ? theirs() : ours()).catch(() => process.exit());
