// How fast is a saved guest opened, and how fast are its pages served, without QEMU?
import { createReadStream, openSync, readFileSync, readSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openFrom, socketOps } from '../adapters/index.ts';
import { unwrap } from '../lib/migration/containers/unwrap.ts';
import { PageIndexBuilder } from '../lib/migration/page-index/page-index-builder.ts';
import { MigrationReader } from '../lib/migration/reader/migration-reader.ts';
import { openSavedGuest } from '../lib/migration/saved-guest/open-saved-guest.ts';
import type { SavedGuest } from '../lib/migration/saved-guest/saved-guest.ts';
import { QemuFile } from '../lib/qemu-file/qemu-file.ts';
import { PageServer } from '../lib/vm/lazy/page-server/page-server.ts';
import type { PageSink } from '../lib/vm/lazy/page-server/page-server-types.ts';
import { writeStream } from './harness/data/migration-streams.ts';
import { FarEnd } from './harness/ends.ts';
import { makeFolder } from './harness/folder.ts';
import { alternate, atLeast, atMost, type Bench, type Row, ratio, rowOf } from './harness/row.ts';

const ours = 'qemu-file';
const floor = 'fs.readSync of the file';

const PAGE = 4096;
const GIB = 1_073_741_824;
const MIN_REQUESTS_PER_SECOND = 15_000;
const MIN_ORDERED_GB_PER_SECOND = 1;
/** On a quiet machine of two shared cores that is 150 ms. */
const MAX_PASS_RATIO = 1.25;
const MAX_ANSWER_MS = 1;
const MAX_INDEX_KB_PER_GIB = 20;
const REQUESTS = 30_000;
/** Requests that are made before the server gets a turn. */
const REQUEST_BURST = 4;

/** A transport that takes everything at once. */
const takesAll: PageSink = { write: () => Promise.resolve() };

async function open(path: string): Promise<SavedGuest> {
  return openSavedGuest(await unwrap(await openFrom({ scheme: 'file', path, offset: 0 })));
}

async function passMs(path: string, pages: number): Promise<number> {
  const start = performance.now();
  const guest = await open(path);
  const ms = performance.now() - start;
  await guest.close();
  return (ms * GIB) / (pages * PAGE);
}

function readMs(path: string, pages: number): number {
  const fd = openSync(path, 'r');
  const buffer = Buffer.allocUnsafeSlow(262_144);
  const start = performance.now();
  while (readSync(fd, buffer, 0, buffer.length, null) > 0);
  return ((performance.now() - start) * GIB) / (pages * PAGE);
}

/** Return the KB of the page index of a stream, per GiB of the guest's memory, and check that it opens the guest. */
async function indexKilobytes(path: string, pages: number): Promise<number> {
  const bytes = readFileSync(path);
  const builder = await PageIndexBuilder.create();
  builder.addBytes(bytes);
  const reader = new MigrationReader(createReadStream(path), { pages: builder.pages });
  for await (const event of reader) builder.addEvent(event);
  const index = builder.finish(reader.ram);
  if (typeof index === 'string') throw new Error(index);
  const file = await unwrap(await openFrom({ scheme: 'file', path, offset: 0 }));
  await (await openSavedGuest(file, { index })).close();
  return (index.length * GIB) / (pages * PAGE) / 1000;
}

/** Return the answered requests per second, for pages in random order. */
async function randomRequests(guest: SavedGuest, pages: number): Promise<number> {
  const server = new PageServer({ source: guest.pages, sink: takesAll, hasBackground: false });
  const start = performance.now();
  let seed = 12_345;
  for (let count = 0; count < REQUESTS; count++) {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    server.request(0, Math.floor((seed / 2_147_483_648) * pages) * PAGE);
    if (count % REQUEST_BURST === 0) await server.idle();
  }
  await server.idle();
  return REQUESTS / ((performance.now() - start) / 1000);
}

/** Return GB per second of all pages in order. */
async function inOrder(guest: SavedGuest, pages: number): Promise<number> {
  const server = new PageServer({ source: guest.pages, sink: takesAll });
  const start = performance.now();
  server.start();
  await server.finished;
  return (pages * PAGE) / ((performance.now() - start) * 1e6);
}

/** Writes to a far end that confirms what it has received, as QEMU confirms what it has loaded. */
class ConfirmedSink implements PageSink {
  readonly #file: QemuFile;
  readonly #waiting: { readonly end: number; readonly resolve: () => void }[] = [];

  constructor(file: QemuFile) {
    this.#file = file;
    void this.#receive();
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#file.putBufferAsync(bytes);
    return this.#file.flush();
  }

  async writeUntilLoaded(bytes: Uint8Array): Promise<void> {
    const written = this.write(bytes);
    const end = this.#file.tellFast();
    await Promise.all([
      written,
      new Promise<void>((resolve) => {
        this.#waiting.push({ end, resolve });
      }),
    ]);
  }

  async #receive(): Promise<void> {
    for (;;) {
      const received = await this.#file.readBe64().catch(() => null);
      if (received === null) return;
      while (this.#waiting[0] !== undefined && this.#waiting[0].end <= received) {
        this.#waiting.shift()?.resolve();
      }
    }
  }
}

/** Return the 99th percentile of milliseconds from a request to its answer written, while the background is sent. */
async function answerMs(guest: SavedGuest, pages: number, far: FarEnd): Promise<number> {
  const file = new QemuFile(socketOps(await far.connect('unix')));
  const server = new PageServer({ source: guest.pages, sink: new ConfirmedSink(file) });
  server.start();
  const finished = server.finished.then(() => true);
  let seed = 99;
  for (;;) {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    // Longer than the silence after a request, so that the background is under way when the next one comes.
    if (await Promise.race([finished, sleep(6 + ((seed >>> 8) % 5), false)])) break;
    server.request(0, Math.floor((seed / 2_147_483_648) * pages) * PAGE);
  }
  await server.idle();
  await file.close();
  return server.stats.faultMs.p99;
}

const bench: Bench = {
  question: 'How fast is a saved guest opened, and how fast are its pages served?',
  async *run({ quick }): AsyncGenerator<Row> {
    const pages = quick ? 32_768 : 262_144;
    const rounds = quick ? 1 : 5;
    const folder = makeFolder('/dev/shm/qemu-file-bench-');
    try {
      const path = join(folder, 'dense.mig');
      await writeStream(path, 'dense', pages);
      await passMs(path, pages);
      const passes = await alternate(
        [
          { name: ours, run: () => passMs(path, pages) },
          { name: floor, run: () => Promise.resolve(readMs(path, pages)) },
        ],
        rounds,
      );
      const toFloor = ratio(passes, ours, floor);
      yield rowOf(passes, {
        name: 'places of the pages of a dense stream, per GiB',
        unit: 'ms',
        ours,
        against: [floor],
        mustReach: `≤ ${MAX_PASS_RATIO} × floor`,
        reached: () => atMost(toFloor, MAX_PASS_RATIO),
      });
      const guest = await open(path);
      const requests = await alternate(
        [{ name: ours, run: () => randomRequests(guest, pages) }],
        rounds,
      );
      yield rowOf(requests, {
        name: 'random requests',
        unit: '/s',
        ours,
        against: [],
        mustReach: `≥ ${MIN_REQUESTS_PER_SECOND} /s`,
        reached: (value) => atLeast(value, MIN_REQUESTS_PER_SECOND),
      });
      const ordered = await alternate([{ name: ours, run: () => inOrder(guest, pages) }], rounds);
      yield rowOf(ordered, {
        name: 'all pages in order',
        unit: 'GB/s',
        ours,
        against: [],
        mustReach: `≥ ${MIN_ORDERED_GB_PER_SECOND} GB/s`,
        reached: (value) => atLeast(value, MIN_ORDERED_GB_PER_SECOND),
      });
      using far = await FarEnd.start('confirming-sink');
      const answers = await alternate(
        [{ name: ours, run: () => answerMs(guest, pages, far) }],
        rounds,
      );
      yield rowOf(answers, {
        name: 'request to answer written, background on, p99',
        unit: 'ms',
        ours,
        against: [],
        mustReach: `≤ ${MAX_ANSWER_MS} ms`,
        reached: (value) => atMost(value, MAX_ANSWER_MS),
      });
      await guest.close();
      const ordinary = join(folder, 'ordinary.mig');
      await writeStream(ordinary, 'ordinary', pages);
      const sizes = await alternate(
        [{ name: ours, run: () => indexKilobytes(ordinary, pages) }],
        1,
      );
      yield rowOf(sizes, {
        name: 'page index of an ordinary guest, per GiB',
        unit: 'KB',
        ours,
        against: [],
        mustReach: `≤ ${MAX_INDEX_KB_PER_GIB} KB`,
        reached: (value) => atMost(value, MAX_INDEX_KB_PER_GIB),
      });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
