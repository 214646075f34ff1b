// Does memory stay bounded when the peer stalls, and while a relay moves gigabytes?
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { QemuFile } from 'qemu-file';
import { openTo } from 'qemu-file/adapters';
import { pageOf, wordOf } from './harness/data/ram-records.ts';
import { FarEnd } from './harness/ends.ts';
import { makeFolder } from './harness/folder.ts';
import { MAIN } from './harness/paths.ts';
import { start } from './harness/process.ts';
import { alternate, atMost, type Bench, type Row, rowOf } from './harness/row.ts';

const ours = 'qemu-file';
const MIB = 2 ** 20;
/** Memory that may be used beyond the high-water mark, in MiB. */
const SLACK_MIB = 16;
const PEAK_MIB = 120;

/** Put pages until stopped, waiting whenever the file says so. */
async function putUntil(file: QemuFile, isOver: () => boolean): Promise<void> {
  for (let i = 0; !isOver(); i++) {
    file.putBe64(wordOf(i));
    file.putBufferAsync(pageOf(i));
    if (file.rateLimitExceeded()) await Promise.race([file.drain(), sleep(50)]);
  }
}

/** Return the growth of this process in MiB while the peer does not read, and the file's high-water mark. */
async function stall(folder: string, ms: number): Promise<{ grown: number; mark: number }> {
  const path = join(folder, 'stalled');
  const server = createServer().listen(path);
  await once(server, 'listening');
  const connection = once(server, 'connection');
  const file = await openTo(`unix:${path}`);
  const [socket] = (await connection) as [Socket];
  try {
    // A first run with a reader allocates what every process needs.
    socket.resume();
    const warmEnd = performance.now() + ms / 5;
    await putUntil(file, () => performance.now() > warmEnd);
    await file.flush();
    socket.pause();
    global.gc?.();
    const before = process.memoryUsage().rss;
    let most = before;
    const timer = setInterval(() => {
      most = Math.max(most, process.memoryUsage().rss);
    }, 10);
    const end = performance.now() + ms;
    await putUntil(file, () => performance.now() > end);
    clearInterval(timer);
    return { grown: (most - before) / MIB, mark: file.writableHighWaterMark / MIB };
  } finally {
    file.destroy();
    socket.destroy();
    server.close();
  }
}

/** Return the peak memory of the command in MiB while it relays. */
async function relayPeak(folder: string, bytes: number): Promise<number> {
  using sink = await FarEnd.start('sink');
  const path = join(folder, 'from');
  const args = [
    MAIN,
    'relay',
    `unix:${path}`,
    `unix:${sink.addresses.unix}`,
    '--no-check',
    '--quiet',
  ];
  const { used, ended } = start(process.execPath, args);
  let from: QemuFile | undefined;
  while (from === undefined) {
    from = await openTo(`unix:${path}`).catch(() => undefined);
    if (from === undefined) await sleep(20);
  }
  const chunk = Buffer.alloc(256 * 1024, 0xa5);
  for (let at = 0; at < bytes; at += chunk.length) if (!from.write(chunk)) await from.drain();
  await from.close();
  if ((await ended) !== 0) throw new Error('the relay failed');
  return used.peakMiB;
}

async function row(name: string, value: number, most: number, mustReach: string): Promise<Row> {
  const run = (): Promise<number> => Promise.resolve(value);
  return rowOf(await alternate([{ name: ours, run }], 1), {
    name,
    unit: 'MiB',
    ours,
    against: [],
    mustReach,
    reached: (reached) => atMost(reached, most),
  });
}

const bench: Bench = {
  question: 'Does memory stay bounded?',
  async *run({ quick }) {
    const folder = makeFolder(join(tmpdir(), 'qemu-file-bench-'));
    try {
      const seconds = quick ? 1 : 5;
      const { grown, mark } = await stall(folder, seconds * 1000);
      const allowed = `≤ high-water mark (${mark}) + ${SLACK_MIB} MiB`;
      yield await row(`growth in ${seconds} s of a stall`, grown, mark + SLACK_MIB, allowed);
      const bytes = (quick ? 256 : 4096) * MIB;
      const peak = await relayPeak(folder, bytes);
      const name = `peak of a relay of ${bytes / 2 ** 30} GiB`;
      yield await row(name, peak, PEAK_MIB, `≤ ${PEAK_MIB} MiB`);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
