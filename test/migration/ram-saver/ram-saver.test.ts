import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { openFrom } from '../../../adapters/index.ts';
import { RAM_SAVE_CONTROL_DELAYED, RAM_SAVE_CONTROL_NOT_SUPP } from '../../../lib/index.ts';
import { unwrap } from '../../../lib/migration/containers/unwrap.ts';
import type { LivePageSource } from '../../../lib/migration/page-source/live-page-source.ts';
import { MemoryPageSource } from '../../../lib/migration/page-source/memory-page-source.ts';
import type { PageSource } from '../../../lib/migration/page-source/page-source.ts';
import { RamSaver, type RamSaverOptions } from '../../../lib/migration/ram-saver/ram-saver.ts';
import { openSavedGuest } from '../../../lib/migration/saved-guest/open-saved-guest.ts';
import { MigrationWriter } from '../../../lib/migration/writer/migration-writer.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { type RecordedFile, recording, unpack } from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { savedGuestOf } from '../../helpers/guests/saved-guest.ts';
import {
  be64,
  blockList,
  eos,
  header,
  page,
  piece,
  section,
  stream,
  word,
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';

const PAGE = 4096;

/** A file that keeps what is written to it. */
function recorder(): { file: QemuFile; bytes: () => Promise<Buffer> } {
  const chunks: Buffer[] = [];
  const file = new QemuFile({
    writevBuffer(buffers) {
      const chunk = Buffer.concat(buffers);
      chunks.push(chunk);
      return chunk.length;
    },
  });
  const bytes = async (): Promise<Buffer> => {
    await file.flush();
    return Buffer.concat(chunks);
  };
  return { file, bytes };
}

interface Run {
  saver: RamSaver;
  file: QemuFile;
  writer: MigrationWriter;
  /** The stream, complete. */
  finish: () => Promise<Buffer>;
}

function start(source: PageSource | LivePageSource, options?: RamSaverOptions): Run {
  const { file, bytes } = recorder();
  const writer = new MigrationWriter(file, { pageSize: source.pageSize });
  writer.header();
  const saver = new RamSaver(writer, source, options);
  const finish = async (): Promise<Buffer> => {
    writer.end();
    return bytes();
  };
  return { saver, file, writer, finish };
}

/** Memory of pages that each hold one byte throughout. */
function memoryOf(...fills: readonly number[]): Buffer {
  return Buffer.concat(fills.map((fill) => Buffer.alloc(PAGE, fill)));
}

/** What a loader has in memory after a stream. */
async function loaded(bytes: Buffer): Promise<Record<string, Buffer>> {
  const { pages } = await savedGuestOf(bytes);
  const memory: Record<string, Buffer> = {};
  for (const [block, { name, usedLength }] of pages.blocks.entries()) {
    const contents = Buffer.alloc(usedLength);
    await pages.read(block, 0, contents);
    memory[name] = contents;
  }
  return memory;
}

describe('memory that does not change', () => {
  test('is sent as START, PART and END, with runs of zeros and blocks named once', async () => {
    const source = new MemoryPageSource([
      { name: 'pc.ram', memory: memoryOf(1, 0, 0, 2) },
      { name: 'vga.vram', memory: memoryOf(0) },
    ]);
    const { saver, finish } = start(source);
    await saver.setup();
    assert.equal(await saver.iterate(), true);
    await saver.complete();
    assert.deepEqual(
      await finish(),
      stream(
        header,
        section(
          'start',
          2,
          ['ram', 0, 4],
          blockList(['pc.ram', 4 * PAGE], ['vga.vram', PAGE]),
          eos,
        ),
        piece(
          'part',
          2,
          page('pc.ram', 0, memoryOf(1)),
          zeroPage(null, PAGE),
          zeroPage(null, 2 * PAGE),
          page(null, 3 * PAGE, memoryOf(2)),
          zeroPage('vga.vram', 0),
          eos,
        ),
        piece('end', 2, eos),
        '00',
      ),
    );
    assert.deepEqual(saver.progress, {
      round: 1,
      remainingBytes: 0,
      expectedDowntimeMs: 0,
      isShrinking: true,
      pages: { normal: 2, zero: 3, xbzrle: 0, unchanged: 0 },
    });
  });

  test('is sent page by page, however long the runs of zeros between pages with data are', async () => {
    // Pages with data follow after 0, 1, 15, 16, 17, 63, 64, 65 and 700 pages of zeros.
    const data = new Set([0, 2, 18, 35, 53, 117, 182, 248, 949]);
    const memory = Buffer.alloc(960 * PAGE);
    for (const at of data) memory[at * PAGE + PAGE - 1] = 1;
    const { saver, finish } = start(new MemoryPageSource([{ name: 'pc.ram', memory }]));
    await saver.setup();
    await saver.complete();
    const contents = Buffer.alloc(PAGE);
    contents[PAGE - 1] = 1;
    const records = Array.from({ length: 960 }, (_, at) => {
      const name = at === 0 ? 'pc.ram' : null;
      return data.has(at) ? page(name, at * PAGE, contents) : zeroPage(name, at * PAGE);
    });
    assert.deepEqual(
      await finish(),
      stream(
        header,
        section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 960 * PAGE]), eos),
        piece('end', 2, ...records, eos),
        '00',
      ),
    );
    assert.deepEqual(saver.progress.pages, { normal: 9, zero: 951, xbzrle: 0, unchanged: 0 });
  });

  test('has the ids that its options have', async () => {
    const source = new MemoryPageSource([{ name: 'a', memory: memoryOf(1) }]);
    const { saver, finish } = start(source, {
      section: { sectionId: 9, instanceId: 0, versionId: 4 },
    });
    await saver.setup();
    await saver.complete();
    const list = section('start', 9, ['ram', 0, 4], blockList(['a', PAGE]), eos);
    const last = piece('end', 9, page('a', 0, memoryOf(1)), eos);
    assert.deepEqual(await finish(), stream(header, list, last, '00'));
  });

  test('is read only in its extents', async () => {
    const reads: [number, number, number][] = [];
    const source: PageSource = {
      pageSize: PAGE,
      // Neither is in the list: QEMU would take them for other fields.
      blocks: [{ name: 'a', usedLength: 200 * PAGE, hostPageSize: 2 << 20, address: 4096n }],
      extents: () => [
        { at: 3 * PAGE, length: 2 * PAGE },
        { at: 100 * PAGE, length: 90 * PAGE },
      ],
      async read(block, offset, target) {
        await Promise.resolve();
        reads.push([block, offset / PAGE, target.length / PAGE]);
        target.fill(5);
      },
    };
    const { saver, finish } = start(source);
    await saver.setup();
    await saver.complete();
    assert.deepEqual(reads, [
      [0, 3, 2],
      [0, 100, 64],
      [0, 164, 26],
    ]);
    const expected = Buffer.alloc(200 * PAGE);
    expected.fill(5, 3 * PAGE, 5 * PAGE).fill(5, 100 * PAGE, 190 * PAGE);
    assert.ok((await loaded(await finish())).a?.equals(expected));
  });

  test('of a saved guest is read from its file', async () => {
    await using dir = makeTempDir();
    const [main] = recording('pc').files;
    const bytes = unpack(main as RecordedFile);
    const path = dir.join('saved');
    writeFileSync(path, bytes);
    const guest = await openSavedGuest(
      await unwrap(await openFrom({ scheme: 'file', path, offset: 0 })),
    );
    const { saver, finish } = start(guest.pages);
    await saver.setup();
    while (!(await saver.iterate()));
    await saver.complete();
    await guest.close();
    assert.deepEqual(await loaded(await finish()), await loaded(bytes));
  });

  test('of larger pages is sent', async () => {
    const memory = Buffer.alloc(4 * 16_384);
    memory[16_384] = 1;
    const source = new MemoryPageSource([{ name: 'a', memory }], 16_384);
    const { saver, finish } = start(source);
    await saver.setup();
    while (!(await saver.iterate()));
    await saver.complete();
    assert.deepEqual(saver.progress.pages, { normal: 1, zero: 3, xbzrle: 0, unchanged: 0 });
    const words = await finish();
    assert.ok(words.includes(stream(be64(16_384 + 0x28), '01')));
  });

  test('is sent while there is none', async () => {
    const { saver, finish } = start(new MemoryPageSource([]));
    await saver.setup();
    assert.equal(await saver.iterate(), true);
    await saver.complete();
    assert.ok((await finish()).length > 0);
  });
});

describe('memory that changes', () => {
  test('is sent again where it changed, in rounds, and the last of it at the end', async () => {
    const memory = memoryOf(1, 2, 3, 4);
    const source = new MemoryPageSource([{ name: 'a', memory }]);
    const { saver, finish } = start(source);
    await saver.setup();
    await saver.iterate();
    memory.fill(8, PAGE, 3 * PAGE);
    source.markDirty(0, PAGE + 5, PAGE);
    await saver.iterate();
    assert.equal(saver.progress.remainingBytes, 2 * (PAGE + 8));
    await saver.iterate();
    memory.fill(0, 3 * PAGE);
    source.markDirty(0, 4 * PAGE - 1, 1);
    await saver.complete();
    assert.deepEqual(
      await finish(),
      stream(
        header,
        section('start', 2, ['ram', 0, 4], blockList(['a', 4 * PAGE]), eos),
        piece(
          'part',
          2,
          page('a', 0, memoryOf(1)),
          page(null, PAGE, memoryOf(2)),
          page(null, 2 * PAGE, memoryOf(3)),
          page(null, 3 * PAGE, memoryOf(4)),
          eos,
        ),
        piece('part', 2, page(null, PAGE, memoryOf(8)), page(null, 2 * PAGE, memoryOf(8)), eos),
        piece('end', 2, zeroPage(null, 3 * PAGE), eos),
        '00',
      ),
    );
    assert.equal(saver.progress.round, 3);
  });

  test('is sent as changes with XBZRLE, from the second time on, and not where it is as before', async () => {
    const memory = memoryOf(1, 2, 3);
    const source = new MemoryPageSource([{ name: 'a', memory }]);
    const { saver, finish } = start(source, { xbzrleCacheBytes: 8 * PAGE });
    const round = async (change: () => void): Promise<void> => {
      change();
      source.markDirty(0, 0, memory.length);
      await saver.iterate();
      await saver.iterate();
    };
    await saver.setup();
    await saver.iterate();
    // The second round sends pages as they are, and remembers them.
    await round(() => {});
    await round(() => {
      memory[100] = 0xaa;
      memory.fill(0, PAGE, 2 * PAGE);
    });
    await round(() => memory.fill(9, PAGE + 4, PAGE + 6));
    assert.deepEqual(saver.progress.pages, { normal: 6, zero: 1, xbzrle: 2, unchanged: 3 });
    source.markDirty(0, 2 * PAGE, 1);
    memory.fill(7, 2 * PAGE);
    await saver.complete();
    const bytes = await finish();
    const xbzrle = (offset: number, encoded: string): Buffer =>
      stream(
        word(null, offset, 0x40),
        '01',
        `00${(encoded.length / 2).toString(16).padStart(2, '0')}`,
        encoded,
      );
    assert.ok(bytes.includes(stream(xbzrle(0, '6401aa'), zeroPage(null, PAGE), eos)));
    assert.ok(bytes.includes(stream(xbzrle(PAGE, '04020909'), eos)));
    assert.ok(bytes.includes(stream('0300000002', page(null, 2 * PAGE, memoryOf(7)), eos)));
    assert.ok((await loaded(bytes)).a?.equals(memory));
  });

  test('arrives as it is, whatever changes and however small the cache is', async () => {
    const pages = 64;
    for (const cachePages of [0, 1, 16, 64]) {
      const memory = Buffer.alloc(pages * PAGE);
      const source = new MemoryPageSource([
        { name: 'a', memory: memory.subarray(0, 40 * PAGE) },
        { name: 'b', memory: memory.subarray(40 * PAGE) },
      ]);
      const { saver, finish } = start(source, { xbzrleCacheBytes: cachePages * PAGE });
      let seed = 1;
      const random = (limit: number): number => {
        seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
        return (seed >>> 8) % limit;
      };
      const change = (): void => {
        for (let count = 0; count < 20; count++) {
          const at = random(pages);
          const fill = random(3) * 77;
          const length = random(4) === 0 ? PAGE : random(50);
          memory.fill(fill, at * PAGE, at * PAGE + length);
          if (at < 40) source.markDirty(0, at * PAGE, PAGE);
          else source.markDirty(1, (at - 40) * PAGE, PAGE);
        }
      };
      await saver.setup();
      for (let round = 0; round < 12; round++) {
        change();
        await saver.iterate();
      }
      change();
      await saver.complete();
      const { a, b } = await loaded(await finish());
      assert.ok(Buffer.concat([a as Buffer, b as Buffer]).equals(memory), `${cachePages} pages`);
    }
  });

  test('is not ready while more changes than fits the downtime limit', async () => {
    const memory = Buffer.alloc(64 * PAGE, 1);
    const source = new MemoryPageSource([{ name: 'a', memory }]);
    const { saver } = start(source, { downtimeLimitMs: 0 });
    await saver.setup();
    source.markDirty(0, 0, 8 * PAGE);
    assert.equal(await saver.iterate(), false);
    source.markDirty(0, 0, 8 * PAGE);
    assert.equal(await saver.iterate(), false);
    assert.equal(saver.progress.isShrinking, false);
    assert.ok(saver.progress.expectedDowntimeMs > 0);
    source.markDirty(0, 0, 4 * PAGE);
    assert.equal(await saver.iterate(), false);
    assert.equal(saver.progress.isShrinking, true);
    assert.equal(await saver.iterate(), true);
    await saver.complete();
  });

  test('is not harmed by bits of pages that do not exist', async () => {
    const source: LivePageSource = {
      pageSize: PAGE,
      blocks: [{ name: 'a', usedLength: 3 * PAGE, hostPageSize: null, address: null }],
      extents: () => [],
      read: (_, __, target) => void target.fill(1),
      dirty: (_, bitmap) => void bitmap.fill(0xffff_ffff),
    };
    const { saver, finish } = start(source);
    await saver.setup();
    await saver.iterate();
    await saver.complete();
    assert.deepEqual(saver.progress.pages, { normal: 3, zero: 3, xbzrle: 0, unchanged: 0 });
    assert.ok((await loaded(await finish())).a?.equals(memoryOf(1, 1, 1)));
  });
});

describe('memory of which the source has a view', () => {
  /** A source that records how its pages are got. */
  class RecordingSource extends MemoryPageSource {
    readonly calls: string[] = [];
    hasView = true;

    override read(block: number, offset: number, target: Uint8Array): void {
      this.calls.push(`read ${offset / PAGE} ${target.length / PAGE}`);
      super.read(block, offset, target);
    }

    override view(block: number, offset: number, length: number): Uint8Array {
      this.calls.push(`view ${offset / PAGE} ${length / PAGE}`);
      return this.hasView ? super.view(block, offset, length) : (null as never);
    }
  }

  test('is not read, and arrives also from the middle of a buffer', async () => {
    // The second run is all zeros.
    const memory = Buffer.alloc(36 * PAGE + 24).subarray(24);
    for (const page of [0, 2, 15, 32, 35]) memory[page * PAGE + 17] = page + 1;
    memory[PAGE - 1] = 1;
    memory[3 * PAGE] = 1;
    const source = new RecordingSource([{ name: 'a', memory }]);
    const { saver, finish } = start(source);
    await saver.setup();
    await saver.iterate();
    await saver.complete();
    assert.deepEqual(source.calls, ['view 0 16', 'view 16 16', 'view 32 4']);
    assert.deepEqual(saver.progress.pages, { normal: 6, zero: 30, xbzrle: 0, unchanged: 0 });
    assert.ok((await loaded(await finish())).a?.equals(memory));
  });

  test('is read where the source has no view of it', async () => {
    const memory = memoryOf(1, 0, 2);
    const source = new RecordingSource([{ name: 'a', memory }]);
    source.hasView = false;
    const { saver, finish } = start(source);
    await saver.setup();
    await saver.iterate();
    await saver.complete();
    assert.deepEqual(source.calls, ['view 0 3', 'read 0 3']);
    assert.ok((await loaded(await finish())).a?.equals(memory));
  });

  test('is read in rounds with XBZRLE, whose cache keeps what was sent', async () => {
    const source = new RecordingSource([{ name: 'a', memory: memoryOf(1, 2) }]);
    const { saver } = start(source, { xbzrleCacheBytes: 8 * PAGE });
    await saver.setup();
    await saver.iterate();
    source.markDirty(0, 0, 2 * PAGE);
    await saver.iterate();
    await saver.iterate();
    assert.deepEqual(source.calls, ['view 0 2', 'read 0 2']);
  });

  test('may change once it was sent, while the bytes wait for the transport', async () => {
    const memory = memoryOf(1, 2);
    const chunks: Buffer[] = [];
    let open = (): void => {};
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    const file = new QemuFile({
      async writevBuffer(buffers) {
        await opened;
        const chunk = Buffer.concat(buffers);
        chunks.push(chunk);
        return chunk.length;
      },
    });
    const saver = new RamSaver(
      new MigrationWriter(file),
      new MemoryPageSource([{ name: 'a', memory }]),
    );
    await saver.setup();
    await saver.complete();
    memory.fill(9);
    open();
    await file.flush();
    const sent = Buffer.concat(chunks);
    assert.ok(sent.includes(memoryOf(1)) && sent.includes(memoryOf(2)));
    assert.ok(!sent.includes(memoryOf(9)));
  });
});

describe('a saver waits', () => {
  test('for a transport that is slow, so that little is pending', async () => {
    const memory = Buffer.alloc(64 << 20, 3);
    let greatest = 0;
    const file: QemuFile = new QemuFile(
      {
        async writevBuffer(buffers) {
          await new Promise(setImmediate);
          greatest = Math.max(greatest, file.tellFast() - file.transferred());
          return buffers.reduce((sum, { length }) => sum + length, 0);
        },
      },
      { highWaterMark: 1 << 20 },
    );
    const saver = new RamSaver(
      new MigrationWriter(file),
      new MemoryPageSource([{ name: 'a', memory }]),
    );
    await saver.setup();
    while (!(await saver.iterate()));
    await saver.complete();
    await file.close();
    assert.ok(greatest < 3 << 20, String(greatest));
  });

  test('for a rate limit, which it lifts for the last round only', async () => {
    const memory = Buffer.alloc(256 * PAGE, 3);
    const source = new MemoryPageSource([{ name: 'a', memory }]);
    const { saver, file } = start(source);
    file.maxBandwidth = 10e6;
    const limits: number[] = [];
    await saver.setup();
    await saver.iterate();
    limits.push(file.maxBandwidth);
    source.markDirty(0, 0, memory.length);
    const view = source.view.bind(source);
    source.view = (...args) => {
      limits.push(file.maxBandwidth);
      return view(...args);
    };
    await saver.complete();
    limits.push(file.maxBandwidth);
    assert.deepEqual([...new Set(limits)], [10e6, 0]);
    assert.equal(limits.at(-1), 10e6);
  });
});

describe('hooks of the file', () => {
  test('run around the list, the rounds and the last round, and may send pages', async () => {
    const memory = memoryOf(1, 0, 2, 3);
    const calls: string[] = [];
    const source = new MemoryPageSource([
      { name: 'a', memory: memoryOf(0) },
      { name: 'b', memory },
    ]);
    const { saver, file, finish } = start(source);
    file.setHooks({
      beforeRamIterate: (_, flags) => calls.push(`before ${flags}`),
      afterRamIterate: (_, flags) => calls.push(`after ${flags}`),
      savePage: (_, blockOffset, offset, size, sent) => {
        calls.push(`page ${blockOffset} ${offset} ${size}`);
        if (blockOffset === 0) return RAM_SAVE_CONTROL_NOT_SUPP;
        if (offset === 2 * PAGE) return RAM_SAVE_CONTROL_DELAYED;
        if (offset === PAGE) {
          sent.bytes = 10;
          return 0;
        }
        return RAM_SAVE_CONTROL_NOT_SUPP;
      },
    });
    await saver.setup();
    await saver.iterate();
    await saver.complete();
    assert.deepEqual(calls, [
      ...['before 0', 'after 0', 'before 1'],
      'page 0 0 4096',
      ...['page 4096 0 4096', 'page 4096 4096 4096', 'page 4096 8192 4096', 'page 4096 12288 4096'],
      ...['after 1', 'before 3', 'after 3'],
    ]);
    const part = piece(
      'part',
      2,
      zeroPage('a', 0),
      page('b', 0, memoryOf(1)),
      page(null, 3 * PAGE, memoryOf(3)),
      eos,
    );
    assert.ok((await finish()).includes(part));
  });
});

describe('a saver refuses', () => {
  const source = (): MemoryPageSource => new MemoryPageSource([{ name: 'a', memory: memoryOf(1) }]);

  test('calls out of turn', async () => {
    const { saver } = start(source());
    await assert.rejects(saver.iterate(), { code: 'EINVAL', operation: 'RamSaver.iterate' });
    await assert.rejects(saver.complete(), { code: 'EINVAL' });
    await saver.setup();
    await assert.rejects(saver.setup(), { code: 'EINVAL' });
    await saver.complete();
    await assert.rejects(saver.complete(), { code: 'EINVAL' });
    await assert.rejects(saver.iterate(), { code: 'EINVAL' });
  });

  test('pages of another size than the writer has, and a cache without room', () => {
    const writer = new MigrationWriter(recorder().file, { pageSize: 8192 });
    assert.throws(() => new RamSaver(writer, source()), { code: 'EINVAL' });
    assert.throws(() => start(source(), { xbzrleCacheBytes: PAGE - 1 }), { code: 'EINVAL' });
    assert.throws(() => start(source(), { xbzrleCacheBytes: Number.NaN }), { code: 'EINVAL' });
  });

  test('to go on when its signal aborts', async () => {
    const controller = new AbortController();
    const { saver } = start(source(), { signal: controller.signal });
    await saver.setup();
    controller.abort(new Error('enough'));
    await assert.rejects(saver.iterate(), { code: 'ECANCELED', cause: controller.signal.reason });
  });

  test('to go on when the source fails', async () => {
    const failing: PageSource = {
      ...source(),
      pageSize: PAGE,
      blocks: source().blocks,
      extents: () => [{ at: 0, length: PAGE }],
      read: () => Promise.reject(new Error('gone')),
    };
    const { saver } = start(failing);
    await saver.setup();
    await assert.rejects(saver.iterate(), { message: 'gone' });
  });

  test('to go on when the file has failed', async () => {
    const file = new QemuFile({
      writevBuffer: () => Promise.reject(Object.assign(new Error('gone'), { code: 'EPIPE' })),
    });
    file.on('error', () => {});
    const memory = Buffer.alloc(16 << 20, 1);
    const saver = new RamSaver(
      new MigrationWriter(file),
      new MemoryPageSource([{ name: 'a', memory }]),
    );
    await saver.setup();
    await assert.rejects(
      async () => {
        while (!(await saver.iterate()));
      },
      { code: 'EPIPE' },
    );
  });
});

describe('memory of a program', () => {
  test('is whole pages, and what is marked is inside', () => {
    assert.throws(() => new MemoryPageSource([{ name: 'a', memory: Buffer.alloc(5000) }]), {
      code: 'EINVAL',
      reason: '"a" of 5000 bytes is not a whole number of pages of 4096 bytes',
    });
    const source = new MemoryPageSource([{ name: 'a', memory: Buffer.alloc(PAGE) }]);
    for (const [block, offset, length] of [
      [0, -1, 1],
      [0, PAGE, 1],
      [1, 0, 1],
    ] as const) {
      assert.throws(() => source.markDirty(block, offset, length), { code: 'EINVAL' });
    }
  });

  test('reports what changed since the last report', () => {
    const source = new MemoryPageSource([{ name: 'a', memory: Buffer.alloc(40 * PAGE) }]);
    const bitmap = new Uint32Array(2);
    source.markDirty(0, 31 * PAGE, PAGE + 1);
    bitmap[0] = 1;
    source.dirty(0, bitmap);
    assert.deepEqual([...bitmap], [0x8000_0001, 1]);
    bitmap.fill(0);
    source.dirty(0, bitmap);
    assert.deepEqual([...bitmap], [0, 0]);
  });
});
