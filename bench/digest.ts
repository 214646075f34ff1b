// What does a running digest cost?
import { QemuFile, type QemuFileOptions } from 'qemu-file';
import { memoryPair, socketOps } from 'qemu-file/adapters';
import { pageOf, RECORD, wordOf } from './harness/data/ram-records.ts';
import { FarEnd } from './harness/ends.ts';
import { alternate, atLeast, type Bench, type Contender, ratio, rowOf } from './harness/row.ts';

const ours = 'digest on';
const off = 'digest off';
const MIN_RATIO = 0.8;
const CHUNK = Buffer.alloc(65536, 0x5a);

async function putPages(far: FarEnd, records: number, options: QemuFileOptions): Promise<void> {
  const ops = socketOps(await far.connect('unix'), { lingerMs: 60_000 });
  const file = new QemuFile(ops, options);
  for (let i = 0; i < records; i++) {
    file.putBe64(wordOf(i));
    file.putBufferAsync(pageOf(i));
    if (file.rateLimitExceeded()) await file.drain();
  }
  await file.close();
}

async function readStream(far: FarEnd, options: QemuFileOptions): Promise<void> {
  const file = new QemuFile(socketOps(await far.connect('unix')), options);
  file.resume();
  await new Promise((resolve) => file.once('end', resolve));
  await file.close();
}

async function throughMemory(chunks: number, options: QemuFileOptions): Promise<void> {
  const [here, there] = memoryPair();
  const from = new QemuFile(here, options);
  const to = new QemuFile(there);
  to.resume();
  const ended = new Promise((resolve) => to.once('end', resolve));
  for (let i = 0; i < chunks; i++) if (!from.write(CHUNK)) await from.drain();
  from.end();
  await ended;
  to.destroy();
  from.destroy();
}

const bench: Bench = {
  question: 'What does a running digest cost?',
  async *run({ quick }) {
    const records = quick ? 8192 : 131_072;
    using sink = await FarEnd.start('sink');
    using source = await FarEnd.start('source', records);
    const bytes = records * RECORD;
    const works: [string, (options: QemuFileOptions) => Promise<void>][] = [
      ['pages to a unix socket', (options) => putPages(sink, records, options)],
      ['reading a unix socket', (options) => readStream(source, options)],
      ['64 KiB chunks through memory', (options) => throughMemory(bytes / CHUNK.length, options)],
    ];
    for (const [name, work] of works) {
      const timed = (label: string, options: QemuFileOptions): Contender => ({
        name: label,
        run: async () => {
          const start = performance.now();
          await work(options);
          return bytes / ((performance.now() - start) * 1e6);
        },
      });
      const contenders = [timed(ours, { digest: 'xxh64' }), timed(off, {})];
      if (!quick) await alternate(contenders, 1);
      const rounds = await alternate(contenders, quick ? 1 : 9);
      const toOff = ratio(rounds, ours, off);
      yield rowOf(rounds, {
        name: `digest: ${name}`,
        unit: 'GB/s',
        ours,
        against: [off],
        mustReach: `≥ ${MIN_RATIO} × off`,
        reached: () => atLeast(toOff, MIN_RATIO),
      });
    }
  },
};
export default bench;
