import assert from 'node:assert/strict';
import { test } from 'node:test';
import { QemuFileError } from '../../../../lib/contract/errors.ts';
import { PageServer } from '../../../../lib/vm/lazy/page-server/page-server.ts';
import type { PageServerOptions } from '../../../../lib/vm/lazy/page-server/page-server-types.ts';
import {
  type FakeBlock,
  type FakeSink,
  fakeSink,
  fakeSource,
  fillPage,
  PAGE,
} from '../fake-source.ts';

type Options = Omit<PageServerOptions, 'source' | 'sink'>;

function serve(list: readonly FakeBlock[], options: Options = {}) {
  const source = fakeSource(list);
  const sink = fakeSink(list.map(([name]) => name));
  const server = new PageServer({ source, sink, quietMs: 0, ...options });
  return { source, sink, server };
}

function pagesOf(sink: FakeSink, block: string): number[] {
  return sink.records.filter((record) => record.block === block).map(({ page }) => page);
}

function range(from: number, end: number): number[] {
  return Array.from({ length: end - from }, (_, index) => from + index);
}

const onlyRequests = { hasBackground: false };

test('without requests all pages with data are sent once, in address order', async () => {
  const { sink, server } = serve([
    [
      'a',
      100,
      [
        [0, 40],
        [90, 100],
      ],
    ],
    ['b', 10, [[3, 4]]],
  ]);
  server.start();
  await server.finished;
  assert.deepEqual(pagesOf(sink, 'a'), [...range(0, 40), ...range(90, 100)]);
  assert.deepEqual(pagesOf(sink, 'b'), [3]);
  const { pages, dataBytes, sentBytes } = server.stats;
  assert.deepEqual(pages, { requested: 0, around: 0, prefetched: 0, background: 51, zero: 0 });
  assert.equal(dataBytes, 51 * PAGE);
  assert.equal(sentBytes, 51 * PAGE);
});

test('a batch without a request has at most 16 pages', async () => {
  const { sink, server } = serve([['a', 500, [[5, 500]]]]);
  server.start();
  await server.finished;
  for (const records of sink.writes) assert.ok(records.length <= 16);
  assert.deepEqual(pagesOf(sink, 'a'), range(5, 500));
});

test('a requested page goes first, then the pages with data of its aligned window', async () => {
  const { sink, server } = serve(
    [
      [
        'a',
        100,
        [
          [20, 50],
          [60, 70],
        ],
      ],
    ],
    onlyRequests,
  );
  server.request(0, 40 * PAGE + 17);
  await server.idle();
  const rest = range(32, 50).filter((page) => page !== 40);
  assert.deepEqual(pagesOf(sink, 'a'), [40, ...rest, 60, 61, 62, 63]);
  assert.equal(sink.writes[0]?.length, 1);
  assert.equal(sink.writes.length, 2);
  const { pages, requests, faults } = server.stats;
  assert.deepEqual(pages, { requested: 1, around: 21, prefetched: 0, background: 0, zero: 0 });
  assert.equal(requests, 1);
  assert.equal(faults, 1);
});

test('a requested page of zeros is answered as such, and pages around it follow', async () => {
  const { sink, server } = serve(
    [
      [
        'a',
        100,
        [
          [0, 2],
          [99, 100],
        ],
      ],
    ],
    onlyRequests,
  );
  server.request(0, 5 * PAGE);
  await server.idle();
  assert.deepEqual(sink.records, [
    { block: 'a', page: 5, isZero: true },
    { block: 'a', page: 0, isZero: false },
    { block: 'a', page: 1, isZero: false },
  ]);
  server.request(0, 70 * PAGE);
  await server.idle();
  assert.deepEqual(sink.writes[2], [{ block: 'a', page: 70, isZero: true }]);
  assert.equal(server.stats.pages.zero, 2);
  assert.equal(server.stats.faults, 2);
});

test('a requested page that can be read at once is sent before any other read', async () => {
  const { sink, server, source } = serve([['a', 64, [[0, 64]]]], onlyRequests);
  source.readNow = (block, offset, target) => {
    fillPage(
      Buffer.from(target.buffer, target.byteOffset, target.length).fill(0),
      block,
      offset / PAGE,
    );
    return true;
  };
  server.request(0, 7 * PAGE);
  assert.deepEqual(sink.records, [{ block: 'a', page: 7, isZero: false }]);
  assert.deepEqual(source.reads, []);
  await server.idle();
  assert.deepEqual(source.reads, [[0, 0, 32]]);
});

test('an error of a read without waiting fails the server', async () => {
  const { server, source } = serve([['a', 64, [[0, 64]]]], onlyRequests);
  source.readNow = () => {
    throw new QemuFileError('EIO', 'the disk failed');
  };
  server.request(0, 0);
  await assert.rejects(server.finished, /the disk failed/);
});

test('a page that was sent or is under way is not sent again', async () => {
  const { sink, server } = serve([['a', 64, [[0, 64]]]], onlyRequests);
  server.request(0, 0);
  server.request(0, 0);
  server.request(0, PAGE);
  await server.idle();
  server.request(0, 2 * PAGE);
  server.request(0, 0);
  await server.idle();
  assert.deepEqual(
    pagesOf(sink, 'a').sort((a, b) => a - b),
    range(0, 32),
  );
  assert.equal(server.stats.requests, 5);
  assert.equal(server.stats.faults, 2);
});

test('requests in any order beside the background send each page once', async () => {
  const { sink, server, source } = serve([
    [
      'a',
      2000,
      [
        [0, 700],
        [800, 1999],
      ],
    ],
    ['b', 300, [[0, 300]]],
  ]);
  source.beforeRead = () => new Promise(setImmediate);
  server.start();
  let seed = 7;
  for (let count = 0; count < 3000; count++) {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    const block = seed % 5 === 0 ? 1 : 0;
    server.request(block, (seed % (block === 0 ? 2000 : 300)) * PAGE);
    if (count % 16 === 0) await new Promise(setImmediate);
  }
  await server.finished;
  await server.idle();
  const data = (block: string): number[] =>
    sink.records
      .filter((record) => record.block === block && !record.isZero)
      .map(({ page }) => page);
  assert.deepEqual(
    data('a').sort((x, y) => x - y),
    [...range(0, 700), ...range(800, 1999)],
  );
  assert.deepEqual(
    data('b').sort((x, y) => x - y),
    range(0, 300),
  );
  const keys = sink.records.map(({ block, page }) => `${block} ${page}`);
  assert.equal(new Set(keys).size, keys.length);
  const { pages } = server.stats;
  const sum = Object.values(pages).reduce((a, b) => a + b, 0);
  assert.equal(sum, keys.length);
});

test('the target pages of a host page are sent together, zeros among them', async () => {
  const host = 64 * PAGE;
  const { sink, server } = serve(
    [
      [
        'a',
        192,
        [
          [70, 72],
          [130, 131],
        ],
        host,
      ],
    ],
    onlyRequests,
  );
  server.request(0, 100 * PAGE);
  await server.idle();
  assert.deepEqual(pagesOf(sink, 'a'), range(64, 128));
  assert.deepEqual(
    sink.records.filter(({ isZero }) => !isZero).map(({ page }) => page),
    [70, 71],
  );
  assert.equal(sink.writes.length, 1);
  server.request(0, 3 * PAGE);
  await server.idle();
  assert.deepEqual(pagesOf(sink, 'a').slice(64), range(0, 64));
  assert.ok(sink.writes[1]?.every(({ isZero }) => isZero));
});

test('the background sends host pages whole', async () => {
  const { sink, server } = serve([['a', 192, [[70, 72]]]], { hostPageSizes: [64 * PAGE] });
  server.start();
  await server.finished;
  assert.deepEqual(pagesOf(sink, 'a'), range(64, 128));
});

test('host pages that are smaller than the window are kept whole in it', async () => {
  const { sink, server } = serve(
    [
      [
        'a',
        64,
        [
          [5, 6],
          [20, 21],
        ],
        4 * PAGE,
      ],
    ],
    onlyRequests,
  );
  server.request(0, 21 * PAGE);
  await server.idle();
  assert.deepEqual(pagesOf(sink, 'a'), [...range(20, 24), ...range(4, 8)]);
});

test('the recorded set goes before the background, in its order, with its pages of zeros', async () => {
  const prefetch = [
    { block: 0, page: 50, count: 2 },
    { block: 1, page: 1, count: 1 },
    { block: 0, page: 10, count: 1 },
  ];
  const list: FakeBlock[] = [
    ['a', 64, [[0, 60]]],
    ['b', 4, []],
  ];
  const { sink, server } = serve(list, { prefetch });
  server.start();
  await server.finished;
  assert.deepEqual(sink.records.slice(0, 5), [
    { block: 'a', page: 50, isZero: false },
    { block: 'a', page: 51, isZero: false },
    { block: 'b', page: 1, isZero: true },
    { block: 'a', page: 10, isZero: false },
    { block: 'a', page: 0, isZero: false },
  ]);
  assert.equal(server.stats.pages.prefetched, 4);
  assert.equal(server.stats.pages.background, 57);
});

test('the recorded set does not wait until the devices are loaded, and the background does', async () => {
  let load = (): void => assert.fail('called too early');
  const hasLoaded = new Promise<void>((resolve) => {
    load = resolve;
  });
  const { sink, server } = serve([['a', 64, [[0, 64]]]], {
    prefetch: [{ block: 0, page: 50, count: 2 }],
  });
  server.start(hasLoaded);
  while (sink.writes.length === 0) await new Promise(setImmediate);
  for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate);
  assert.deepEqual(pagesOf(sink, 'a'), [50, 51]);
  load();
  await server.finished;
  assert.deepEqual(pagesOf(sink, 'a'), [50, 51, ...range(0, 50), ...range(52, 64)]);
});

test('a server that is stopped before the devices are loaded becomes idle', async () => {
  const { sink, server } = serve([['a', 64, [[0, 64]]]]);
  server.start(new Promise(() => {}));
  server.stop(new Error('enough'));
  await server.idle();
  assert.equal(sink.writes.length, 0);
});

test('what was asked for is recorded in order, as a set that can be pushed', async () => {
  const list: FakeBlock[] = [
    [
      'a',
      256,
      [
        [0, 40],
        [100, 101],
      ],
    ],
  ];
  const { server } = serve(list, { hasBackground: false, recordMs: 60_000 });
  server.start();
  for (const page of [101, 3]) {
    server.request(0, page * PAGE);
    await server.idle();
  }
  const recorded = server.workingSet;
  assert.deepEqual(recorded, [
    { block: 0, page: 101, count: 1 },
    { block: 0, page: 100, count: 1 },
    { block: 0, page: 3, count: 1 },
    { block: 0, page: 0, count: 3 },
    { block: 0, page: 4, count: 28 },
  ]);
  const again = serve(list, { prefetch: recorded, hasBackground: false });
  again.server.start();
  await again.server.idle();
  for (const page of [101, 3]) again.server.request(0, page * PAGE);
  assert.equal(again.server.stats.faults, 0);
});

test('the background waits for the end of the recording', async () => {
  const { sink, server } = serve([['a', 64, [[0, 64]]]], { recordMs: 60_000 });
  server.start();
  server.request(0, 0);
  await new Promise(setImmediate);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(server.stats.pages.background, 0);
  server.stop(new Error('enough'));
  await server.idle();
  assert.equal(sink.writes.length, 2);
});

test('pages that the destination has are not sent', async () => {
  const bitmap = Buffer.alloc(8);
  bitmap[0] = 0b0000_0111;
  const { sink, server } = serve([['a', 64, [[0, 6]]]], { received: [bitmap] });
  server.start();
  server.request(0, PAGE);
  await server.finished;
  assert.deepEqual(pagesOf(sink, 'a'), [3, 4, 5]);
});

test('a host page that was received in part is sent whole', async () => {
  const bitmap = Buffer.of(0b0111_1111);
  const { sink, server } = serve([['a', 8, [[0, 8]], 4 * PAGE]], { received: [bitmap] });
  server.start();
  await server.finished;
  assert.deepEqual(pagesOf(sink, 'a'), [4, 5, 6, 7]);
});

test('requested pages take the channel for them', async () => {
  const list: FakeBlock[] = [['a', 64, [[0, 64]]]];
  const source = fakeSource(list);
  const [sink, requestSink] = [fakeSink(['a']), fakeSink(['a'])];
  const server = new PageServer({ source, sink, requestSink, quietMs: 0 });
  server.request(0, 40 * PAGE);
  await server.idle();
  server.start();
  await server.finished;
  assert.deepEqual(pagesOf(requestSink, 'a')[0], 40);
  assert.equal(requestSink.records.length, 32);
  assert.deepEqual(pagesOf(sink, 'a'), range(0, 32));
});

test('a failed read stops the server, and the end is not reported', async () => {
  const { source, server, sink } = serve([['a', 200, [[0, 200]]]]);
  source.beforeRead = (_, page) => {
    if (page === 96) throw new QemuFileError('EIO', 'the pages from 0x60000 of "a" cannot be read');
  };
  server.start();
  await assert.rejects(server.finished, { code: 'EIO', message: /0x60000 of "a"/ });
  await server.idle();
  assert.equal(sink.records.length, 96);
  server.request(0, 150 * PAGE);
  await server.idle();
  assert.equal(sink.records.length, 96);
});

test('a failed read of a requested page stops the server', async () => {
  const { source, server, sink } = serve([['a', 200, [[0, 200]]]], onlyRequests);
  source.beforeRead = () => Promise.reject(new QemuFileError('EBADMSG', 'wrong digest'));
  server.request(0, 0);
  await assert.rejects(server.finished, { code: 'EBADMSG' });
  await server.idle();
  assert.equal(sink.records.length, 0);
});

test('a file that changed is reported although all pages were sent', async () => {
  const { source, server } = serve([['a', 20, [[0, 20]]]]);
  source.change = new QemuFileError('EIO', 'the file was written to');
  server.start();
  await assert.rejects(server.finished, { code: 'EIO', message: /was written to/ });
});

test('a failed write stops the server', async () => {
  const { sink, server } = serve([['a', 200, [[0, 200]]]]);
  sink.onWrite = () => Promise.reject(new QemuFileError('EPIPE', 'the connection was closed'));
  server.start();
  await assert.rejects(server.finished, { code: 'EPIPE' });
  await server.idle();
});

test('a server that was stopped rejects with the given error', async () => {
  const { server } = serve([['a', 200, [[0, 200]]]], { recordMs: 60_000 });
  server.start();
  server.stop(new QemuFileError('ECANCELED', 'aborted'));
  await assert.rejects(server.finished, { code: 'ECANCELED' });
  await server.idle();
});

test('a request for what the guest does not have is refused', () => {
  const { server } = serve([['a', 20, [[0, 20]]]]);
  for (const [block, offset] of [
    [1, 0],
    [-1, 0],
    [0, 20 * PAGE],
    [0, -1],
    [0, Number.NaN],
  ] as const) {
    assert.throws(() => server.request(block, offset), { code: 'EBADMSG' });
  }
});

test('nothing is sent after the end, not even pages of zeros that are asked for then', async () => {
  const { sink, server } = serve([['a', 20, [[0, 2]]]]);
  server.start();
  await server.finished;
  server.request(0, 10 * PAGE);
  await server.idle();
  assert.equal(sink.records.length, 2);
  assert.equal(server.stats.requests, 1);
});

test('bytes without a request keep to the bandwidth, and requests do not wait for it', async () => {
  const { sink, server } = serve([['a', 96, [[0, 96]]]], { maxBandwidth: 1 });
  server.start();
  while (sink.writes.length < 1) await new Promise(setImmediate);
  server.request(0, 70 * PAGE);
  while (sink.writes.length < 2) await new Promise(setImmediate);
  assert.deepEqual(sink.writes[1]?.[0]?.page, 70);
  assert.equal(sink.records.length, 16 + 32);
  server.stop(new Error('enough'));
  await server.idle();
});

test('a page of zeros that is asked for after the end is answered, if the destination waits for it', async () => {
  const source = fakeSource([['a', 100, [[0, 10]]]]);
  const [sink, requestSink] = [fakeSink(['a']), fakeSink(['a'])];
  const server = new PageServer({
    ...{ source, sink, requestSink, quietMs: 0 },
    answersAfterEnd: true,
  });
  server.start();
  await server.finished;
  assert.deepEqual(pagesOf(sink, 'a'), range(0, 10));
  server.request(0, 50 * PAGE);
  server.request(0, 5 * PAGE);
  await server.idle();
  assert.deepEqual(pagesOf(requestSink, 'a'), [50]);
  assert.deepEqual(pagesOf(sink, 'a'), range(0, 10));
});

test('a guest of zeros only is complete at once', async () => {
  const { sink, server } = serve([['a', 20, []]]);
  server.start();
  await server.finished;
  assert.equal(sink.records.length, 0);
});

test('host pages too large for one buffer are refused', () => {
  assert.throws(() => serve([['a', 512, []]], { hostPageSizes: [2 ** 30] }), { code: 'ENOTSUP' });
});

test('answers do not wait for a batch that is read meanwhile', async () => {
  const { source, sink, server } = serve([['a', 320, [[0, 320]]]]);
  let release = (): void => {};
  source.beforeRead = (_, page) =>
    page === 64
      ? new Promise<void>((resolve) => {
          release = resolve;
        })
      : undefined;
  server.start();
  while (!source.reads.some(([, page]) => page === 64)) await new Promise(setImmediate);
  server.request(0, 300 * PAGE);
  while (server.stats.pages.requested === 0) await new Promise(setImmediate);
  assert.equal(sink.records.at(-32)?.page, 300);
  release();
  await server.finished;
});

/** Makes a sink's writes wait until the destination has loaded them; returns what lets the oldest one go on. */
function loadByHand(sink: FakeSink): (() => void)[] {
  const loads: (() => void)[] = [];
  sink.writeUntilLoaded = async (bytes) => {
    await sink.write(bytes);
    await new Promise<void>((resolve) => {
      loads.push(resolve);
    });
  };
  return loads;
}

test('after a request unasked pages wait until the destination has loaded what is under way, and answers do not', async () => {
  const { sink, server } = serve([['a', 320, [[0, 320]]]]);
  const loads = loadByHand(sink);
  server.request(0, 300 * PAGE);
  await server.idle();
  server.start();
  // The destination goes on asking, also for pages that were sent already.
  const turn = async (): Promise<void> => {
    server.request(0, 300 * PAGE);
    await new Promise(setImmediate);
  };
  while (loads.length < 2) await turn();
  server.request(0, 200 * PAGE);
  while (server.stats.pages.around < 62) await turn();
  assert.equal(sink.records[32 + 32]?.page, 200);
  assert.equal(server.stats.pages.background, 32);
  loads.shift()?.();
  while (server.stats.pages.background < 48) await turn();
  assert.equal(loads.length, 2);
  const load = setInterval(() => loads.shift()?.(), 0);
  await server.finished;
  clearInterval(load);
  assert.deepEqual(
    pagesOf(sink, 'a').sort((a, b) => a - b),
    range(0, 320),
  );
});

test('without requests unasked pages do not wait for the destination', async () => {
  const { sink, server } = serve([['a', 320, [[0, 320]]]]);
  const loads = loadByHand(sink);
  server.start();
  await server.finished;
  assert.equal(loads.length, 0);
  assert.equal(sink.records.length, 320);
});

test('the end waits until the destination has loaded the last pages, and their failure is reported', async () => {
  const { sink, server } = serve([['a', 48, [[0, 48]]]]);
  let fail: (error: Error) => void = () => {};
  sink.writeUntilLoaded = () =>
    new Promise<void>((_, reject) => {
      fail = reject;
    });
  server.request(0, 0);
  await server.idle();
  server.start();
  while (server.stats.pages.background < 16) {
    server.request(0, 0);
    await new Promise(setImmediate);
  }
  let isDone = false;
  const finished = server.finished.finally(() => {
    isDone = true;
  });
  await new Promise(setImmediate);
  assert.equal(isDone, false);
  fail(new QemuFileError('ECONNRESET', 'the connection broke'));
  await assert.rejects(finished, { code: 'ECONNRESET' });
});
