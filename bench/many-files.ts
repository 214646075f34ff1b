// Do many files at once in one process reach the throughput of one?
import { QemuFile } from 'qemu-file';
import { socketOps } from 'qemu-file/adapters';
import { pageOf, RECORD, wordOf } from './harness/data/ram-records.ts';
import { FarEnd } from './harness/ends.ts';
import { alternate, atLeast, type Bench, type Contender, ratio, rowOf } from './harness/row.ts';

const one = '1 file';
const MIN_RATIO = 0.9;

async function putPages(far: FarEnd, records: number): Promise<void> {
  const file = new QemuFile(socketOps(await far.connect('unix'), { lingerMs: 60_000 }));
  for (let i = 0; i < records; i++) {
    file.putBe64(wordOf(i));
    file.putBufferAsync(pageOf(i));
    if (file.rateLimitExceeded()) await file.drain();
  }
  await file.close();
}

const bench: Bench = {
  question: 'Do many files at once reach the throughput of one?',
  async *run({ quick }) {
    using far = await FarEnd.start('sink');
    const records = quick ? 16_384 : 262_144;
    const files = (count: number, name = `${count} files`): Contender => ({
      name,
      run: async () => {
        const start = performance.now();
        const each = records / count;
        await Promise.all(Array.from({ length: count }, () => putPages(far, each)));
        return (records * RECORD) / ((performance.now() - start) * 1e6);
      },
    });
    const contenders = [files(1, one), files(8), files(64)];
    if (!quick) await alternate(contenders, 1);
    const rounds = await alternate(contenders, quick ? 1 : 9);
    for (const { name } of contenders.slice(1)) {
      const toOne = ratio(rounds, name, one);
      yield rowOf(rounds, {
        name: `${name} at once, together`,
        unit: 'GB/s',
        ours: name,
        against: [one],
        mustReach: `≥ ${MIN_RATIO} × one`,
        reached: () => atLeast(toOne, MIN_RATIO),
      });
    }
  },
};
export default bench;
