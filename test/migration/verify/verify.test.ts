import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { openFrom } from '../../../adapters/open.ts';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { MemoryPageStore } from '../../../lib/migration/memory/page-store.ts';
import type { Manifest } from '../../../lib/migration/verify/manifest.ts';
import { type VerifyOptions, verifyStream } from '../../../lib/migration/verify/verify.ts';
import { piecesOf } from '../../helpers/bytes.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { collectGarbage } from '../../helpers/garbage.ts';
import { TrackedStore } from '../../helpers/guests/page-stores.ts';
import { chunksOf } from '../../helpers/reading/read-stream.ts';
import {
  blockList,
  command,
  configuration,
  end,
  eos,
  header,
  NO_DEVICES,
  page,
  piece,
  section,
  stream,
  workedExample,
} from '../../helpers/streams/stream-bytes.ts';

function verify(bytes: Uint8Array, options: VerifyOptions = {}) {
  return verifyStream(chunksOf(piecesOf(bytes, 1000)), options);
}

/** Faults as `fault@position reason`. */
async function faultsIn(bytes: Uint8Array, options?: VerifyOptions): Promise<string[]> {
  const { faults } = await verify(bytes, options);
  return faults.map(({ fault, position, reason }) => `${fault}@${position} ${reason}`);
}

function changed(...places: readonly number[]): Buffer {
  const bytes = workedExample();
  for (const at of places) bytes[at] = (bytes[at] as number) ^ 0x40;
  return bytes;
}

/** A stream of one block, of which some pages came. */
function ramStream(machine: string, ...rest: readonly Uint8Array[]): Buffer {
  return stream(
    header,
    configuration(machine),
    section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 0x3000]), eos),
    piece('part', 2, page('pc.ram', 0x1000, Buffer.alloc(4096, 1)), eos),
    piece('end', 2, eos),
    ...rest,
  );
}

describe('a verification', () => {
  test('of a valid stream finds no faults and reports its parts', async () => {
    const result = await verify(workedExample());
    assert.deepEqual(result.faults, []);
    assert.deepEqual(result.warnings, []);
    assert.equal(result.bytes, 4664);
    assert.equal(result.configuration?.machine, 'pc-i440fx-7.2');
    assert.deepEqual(
      result.sections.map(({ name, kind }) => `${name} ${kind}`),
      ['ram start', 'ram part', 'ram end', 'demo full'],
    );
    assert.deepEqual(
      result.blocks.map(({ name }) => name),
      ['pc.ram', 'vga.vram'],
    );
    assert.equal(result.description?.devices[0]?.name, 'demo');
    assert.equal(result.manifest, null);
  });

  test('returns the fault of a stream truncated anywhere, without throwing', async () => {
    const bytes = workedExample();
    for (let length = 0; length < bytes.length; length += length < 300 || length > 4200 ? 1 : 53) {
      const { faults } = await verify(bytes.subarray(0, length));
      assert.equal(faults.length, 1, `cut at ${length}`);
      assert.equal(faults[0]?.fault, 'truncated', `cut at ${length}: ${faults[0]?.message}`);
    }
  });

  test('stops at the first fault, or with `all` records every fault it can continue after', async () => {
    const bytes = changed(95, 4233);
    assert.deepEqual(await faultsIn(bytes), ['corrupt@92 the section footer has id 66, not 2']);
    assert.deepEqual(await faultsIn(bytes, { all: true }), [
      'corrupt@92 the section footer has id 66, not 2',
      'corrupt@4230 the section footer has id 66, not 2',
    ]);
  });

  test('rejects with an error of the transport', async () => {
    const failing = async function* (): AsyncGenerator<Uint8Array, void> {
      yield workedExample().subarray(0, 3000);
      throw Object.assign(new Error('reset'), { code: 'ECONNRESET' });
    };
    await assert.rejects(verifyStream(failing()), (error: QemuFileError) => {
      return error instanceof QemuFileError && error.code === 'ECONNRESET';
    });
  });

  test('passes pages and events on', async () => {
    const pages: string[] = [];
    const events: string[] = [];
    await verify(workedExample(), {
      pages: {
        page: ({ name }, offset, bytes) => void pages.push(`${name} ${offset} ${bytes.length}`),
        zero: ({ name }, offset, count) => void pages.push(`${name} ${offset} zero ${count}`),
      },
      onEvent: ({ type }) => void events.push(type),
    });
    assert.deepEqual(pages, ['pc.ram 0 4096', 'pc.ram 4096 zero 1', 'vga.vram 0 zero 1']);
    assert.deepEqual([events[0], events.at(-1)], ['header', 'vmDescription']);
  });
});

describe('a stream that QEMU would load but verifyStream reports', () => {
  test('has no VM description, unless allowed or the machine type sends none', async () => {
    const bare = workedExample().subarray(0, 4321);
    assert.match((await faultsIn(bare))[0] ?? '', /^truncated@4321 the VM description is missing/);
    assert.deepEqual(await faultsIn(bare, { withoutDescription: true }), []);
    for (const machine of ['pc-i440fx-2.2', 'pc-q35-2.0', 'pseries-2.2', 'xenfv']) {
      assert.deepEqual(await faultsIn(ramStream(machine, end)), [], machine);
    }
    for (const machine of ['pc-1.3', 'pc-i440fx-2.3', 'pc-q35-10.0', 'virt', 'pc-i440fx-7.2']) {
      assert.equal((await faultsIn(ramStream(machine, end))).length, 1, machine);
    }
  });

  test('has no sections', async () => {
    const bytes = stream(header, configuration('none'), end, NO_DEVICES);
    assert.match((await faultsIn(bytes))[0] ?? '', /^truncated@\d+ the stream has no sections/);
    const all = await faultsIn(stream(header, configuration('none'), end), { all: true });
    assert.equal(all.length, 2);
  });

  test('has pages in multifd channels that were not given', async () => {
    const bytes = stream(
      header,
      configuration('pc-i440fx-10.0'),
      section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 0x1000]), '00000000 00000200', eos),
      piece('end', 2, eos),
      end,
      NO_DEVICES,
    );
    assert.match((await faultsIn(bytes))[0] ?? '', /multifd channels, which were not given/);
  });

  test('lacks pages, which is a warning', async () => {
    const { faults, warnings } = await verify(ramStream('pc-i440fx-7.2', end, NO_DEVICES));
    assert.deepEqual(faults, []);
    assert.deepEqual(warnings, ['2 pages of RAM block "pc.ram" were not sent']);
  });

  test('has names with control characters, which are escaped', async () => {
    const bytes = stream(
      header,
      configuration('pc-i440fx-7.2'),
      section('start', 2, ['ram', 0, 4], blockList(['a\u001b[2J', 0x1000]), eos),
      piece('end', 2, eos),
      end,
      NO_DEVICES,
    );
    const { faults, warnings } = await verify(bytes);
    for (const { message } of faults) assert.match(message, /^[\x20-\x7e]+$/);
    if (faults.length === 0) {
      assert.deepEqual(warnings, ['1 page of RAM block "a\\u{1b}[2J" was not sent']);
    }
  });

  test('has trailing bytes, which is a warning', async () => {
    const { faults, warnings, bytes } = await verify(stream(workedExample(), Buffer.alloc(50)));
    assert.deepEqual(faults, []);
    assert.deepEqual(warnings, ['50 bytes follow the stream, at byte 4664']);
    assert.equal(bytes, 4714);
  });

  test('has an unknown command, after which `all` continues', async () => {
    const bytes = stream(header, configuration('none'), command(77), end);
    assert.match((await faultsIn(bytes))[0] ?? '', /^unsupported@18 command 77 is unknown/);
    assert.ok((await faultsIn(bytes, { all: true })).length > 1);
  });
});

describe('a verification with digests', () => {
  const store = (): MemoryPageStore => new MemoryPageStore();

  async function manifestOf(bytes: Uint8Array): Promise<Manifest> {
    const { faults, manifest } = await verify(bytes, { digests: { store } });
    assert.deepEqual(faults, []);
    assert.ok(manifest !== null);
    return manifest;
  }

  test('makes a manifest that the stream matches and another stream does not', async () => {
    const manifest = await manifestOf(workedExample());
    const options = { manifest, digests: { store } };
    assert.deepEqual(await faultsIn(workedExample(), options), []);
    const [first, ...more] = await faultsIn(changed(200), options);
    assert.match(first ?? '', /^corrupt@96 XXH64 [0-9a-f]{16}; /);
    assert.deepEqual(more, []);
    assert.equal((await faultsIn(changed(200), { ...options, all: true })).length, 3);
    const [device] = await faultsIn(changed(4288), options);
    assert.match(device ?? '', /^corrupt@4270 XXH64 [0-9a-f]{16}; the manifest lists /);
  });

  test('of a file finds the same differences as of a stream, and reads it once if there are none', async () => {
    const manifest = await manifestOf(workedExample());
    const options = { manifest, digests: { store } };
    await using dir = makeTempDir();
    const twice = stream(workedExample(), Buffer.alloc(16, 1));
    for (const bytes of [workedExample(), changed(200), changed(4288), twice]) {
      writeFileSync(dir.join('vm.mig'), bytes);
      for (const all of [false, true]) {
        const file = await openFrom(`file:${dir.join('vm.mig')}`);
        const found = await verifyStream(file, { ...options, all, seekable: true });
        const { faults, manifest: made } = await verify(bytes, { ...options, all });
        assert.deepEqual(
          found.faults.map(({ message }) => message),
          faults.map(({ message }) => message),
        );
        assert.deepEqual(found.manifest, made);
        await file.close();
      }
    }
  });

  test('of a file asks for no store if the stream is unchanged, and shows its pages once', async () => {
    const manifest = await manifestOf(workedExample());
    await using dir = makeTempDir();
    let [stores, pages, events] = [0, 0, 0];
    const countingStore = (): MemoryPageStore => {
      stores += 1;
      return store();
    };
    for (const bytes of [workedExample(), changed(200)]) {
      writeFileSync(dir.join('vm.mig'), bytes);
      await using file = await openFrom(`file:${dir.join('vm.mig')}`);
      await verifyStream(file, {
        manifest,
        digests: { store: countingStore },
        seekable: true,
        pages: {
          page() {
            pages += 1;
          },
        },
        onEvent({ type }) {
          if (type === 'end') events += 1;
        },
      });
    }
    assert.deepEqual([stores, pages, events], [0, 2, 2]);
  });

  test('closes its stores and makes no manifest of an invalid stream', async () => {
    const stores: TrackedStore[] = [];
    const tracked = (): TrackedStore => {
      const made = new TrackedStore();
      stores.push(made);
      return made;
    };
    for (const bytes of [workedExample(), workedExample().subarray(0, 4250)]) {
      const { manifest } = await verify(bytes, { digests: { store: tracked } });
      assert.equal(manifest === null, bytes.length < 4664);
    }
    assert.equal(stores.length, 4);
    assert.ok(stores.every(({ isClosed }) => isClosed));
  });

  test('is aborted by its signal while hashing', async () => {
    const controller = new AbortController();
    controller.abort(new Error('enough'));
    const bytes = stream(
      header,
      configuration('pc-i440fx-7.2'),
      section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 1 << 30]), eos),
      piece('end', 2, eos),
      end,
      NO_DEVICES,
    );
    const { signal } = controller;
    await assert.rejects(verify(bytes, { digests: { store }, signal }), { code: 'ECANCELED' });
  });

  test('buffers only a part of the stream', async () => {
    // 64 MiB in RAM sections: each page is the same buffer, so that only retained memory grows.
    const one = page(null, 0x1000, Buffer.alloc(4096, 3));
    const head = ramStream('pc-i440fx-7.2');
    const closing = head.subarray(head.length - 18);
    const before = process.memoryUsage().arrayBuffers;
    let most = 0;
    const source = async function* (): AsyncGenerator<Uint8Array, void> {
      yield head.subarray(0, head.length - 18);
      for (let count = 0; count < 64; count += 1) {
        yield piece('part', 2, ...Array.from({ length: 250 }, () => one), eos);
        collectGarbage();
        most = Math.max(most, process.memoryUsage().arrayBuffers - before);
      }
      yield stream(closing, end, NO_DEVICES);
    };
    const { faults } = await verifyStream(source(), { digests: { store } });
    assert.deepEqual(faults, []);
    assert.ok(most < 48 << 20, `${most} bytes`);
  });
});
