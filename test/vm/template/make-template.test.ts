import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import type { PageSource } from '../../../lib/migration/page-source/page-source.ts';
import { MigrationReader } from '../../../lib/migration/reader/migration-reader.ts';
import type { SavedGuest } from '../../../lib/migration/saved-guest/saved-guest.ts';
import { makeTemplate } from '../../../lib/vm/index.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { fails } from '../../helpers/errors.ts';
import { bareGuest } from '../../helpers/guests/saved-guest.ts';

const PAGE = 4096;
/** Three pages, of which the second is zeros. */
const CONTENTS = Buffer.concat([Buffer.alloc(PAGE, 1), Buffer.alloc(PAGE), Buffer.alloc(PAGE, 3)]);

function pagesOf(names: readonly string[]): PageSource {
  return {
    pageSize: PAGE,
    blocks: names.map((name) => ({
      name,
      usedLength: CONTENTS.length,
      hostPageSize: null,
      address: null,
    })),
    *extents() {
      yield { at: 0, length: PAGE };
      yield { at: 2 * PAGE, length: PAGE };
    },
    read(_block, offset, target) {
      target.set(CONTENTS.subarray(offset, offset + target.length));
    },
  };
}

function guestOf(names: readonly string[], more: Partial<SavedGuest> = {}): SavedGuest {
  return bareGuest(pagesOf(names), {
    configuration: {
      machine: 'pc-i440fx-7.2',
      targetPageBits: null,
      capabilities: [],
      uuid: null,
    },
    sections: [
      {
        ...{ kind: 'full', sectionId: 5, name: 'dev', instanceId: 0, versionId: 1 },
        body: Uint8Array.of(7, 8),
      },
    ],
    ...more,
  });
}

function backend(path: string, id: string, canonical = 'off'): string {
  return `memory-backend-file,id=${id},size=12K,mem-path=${path},share=off,x-use-canonical-path-for-ramblock-id=${canonical}`;
}

describe('makeTemplate', () => {
  test('writes main memory to a file, and everything else to a stream with a VM description', async () => {
    await using dir = makeTempDir();
    const golden = dir.join('golden');
    const template = await makeTemplate(guestOf(['pc.ram', 'vga.vram', 'pc.bios']), golden);
    const path = `${golden}/ram/pc.ram`;
    const sha256 = createHash('sha256').update(CONTENTS).digest('hex');
    const state = readFileSync(`${golden}/state.mig`);
    assert.deepEqual(template, {
      machine: 'pc-i440fx-7.2',
      qemuVersion: '7.2',
      blocks: [{ name: 'pc.ram', id: 'pc.ram', bytes: 3 * PAGE, sha256 }],
      state: {
        bytes: state.length,
        sha256: createHash('sha256').update(state).digest('hex'),
      },
      arguments: [
        ...['-machine', 'pc-i440fx-7.2,memory-backend=pc.ram', '-m', '12K'],
        ...['-object', backend(path, 'pc.ram')],
      ],
    });
    assert.deepEqual(
      { format: 'qemu-file-template', version: 1, ...template },
      JSON.parse(readFileSync(`${golden}/template.json`, 'utf8')),
    );
    assert.deepEqual(readFileSync(path), CONTENTS);
    assert.deepEqual(readdirSync(`${golden}/ram`), ['pc.ram']);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(dir.path), ['golden']);

    const sent = new Map<string, number>();
    const reader = new MigrationReader(Readable.from([state]), {
      pages: {
        page: ({ name }, _offset, bytes) =>
          void sent.set(name, (sent.get(name) ?? 0) + bytes.length / PAGE),
        zero: ({ name }, _offset, count) => void sent.set(name, (sent.get(name) ?? 0) + count),
      },
    });
    const types: string[] = [];
    for await (const event of reader) types.push(event.type);
    assert.deepEqual(
      reader.ram.blocks.map(({ name }) => name),
      ['pc.ram', 'vga.vram', 'pc.bios'],
    );
    assert.deepEqual(
      [...sent],
      [
        ['vga.vram', 3],
        ['pc.bios', 3],
      ],
    );
    assert.equal(types.at(-1), 'vmDescription');
  });

  test('maps NUMA nodes in their order, and escapes commas of the path', async () => {
    await using dir = makeTempDir();
    const golden = dir.join('a,b');
    const names = ['ram-node1', 'ram-node0', 'pc.bios'];
    const template = await makeTemplate(guestOf(names), golden);
    const path = `${dir.path}/a,,b/ram/`;
    assert.deepEqual(template.arguments, [
      ...['-machine', 'pc-i440fx-7.2', '-m', '24K'],
      ...['-object', backend(`${path}ram-node1`, 'ram-node1')],
      ...['-object', backend(`${path}ram-node0`, 'ram-node0')],
      ...['-numa', 'node,nodeid=0,memdev=ram-node0'],
      ...['-numa', 'node,nodeid=1,memdev=ram-node1'],
    ]);
  });

  test('gives a backend of an old machine type its canonical name, and a file an escaped one', async () => {
    await using dir = makeTempDir();
    const golden = dir.join('golden');
    const template = await makeTemplate(guestOf(['/objects/mem']), golden);
    assert.deepEqual(template.arguments, [
      ...['-machine', 'pc-i440fx-7.2,memory-backend=mem', '-m', '12K'],
      ...['-object', backend(`${golden}/ram/%2fobjects%2fmem`, 'mem', 'on')],
    ]);
    assert.deepEqual(readdirSync(`${golden}/ram`), ['%2fobjects%2fmem']);
  });

  test('maps the blocks that the caller names; other nodes get memory of their own', async () => {
    await using dir = makeTempDir();
    const names = ['ram-node0', 'ram-node1'];
    const one = await makeTemplate(guestOf(names), dir.join('one'), { blocks: ['ram-node1'] });
    assert.deepEqual(one.arguments, [
      ...['-machine', 'pc-i440fx-7.2', '-m', '24K'],
      ...['-object', backend(`${dir.path}/one/ram/ram-node1`, 'ram-node1')],
      ...['-object', 'memory-backend-ram,id=ram-node0,size=12K'],
      ...['-numa', 'node,nodeid=0,memdev=ram-node0'],
      ...['-numa', 'node,nodeid=1,memdev=ram-node1'],
    ]);
    const order = await makeTemplate(guestOf(['x', 'y']), dir.join('two'), { blocks: ['y', 'x'] });
    assert.deepEqual(order.arguments.slice(-2), ['-numa', 'node,nodeid=1,memdev=x']);
  });

  test('takes an empty directory, and refuses one with files and what is not a directory', async () => {
    await using dir = makeTempDir();
    mkdirSync(dir.join('empty'));
    await makeTemplate(guestOf(['pc.ram']), dir.join('empty'));
    assert.ok(existsSync(dir.join('empty/template.json')));
    const again = makeTemplate(guestOf(['pc.ram']), dir.join('empty'));
    await assert.rejects(again, fails('EEXIST', /empty is not empty/));
    writeFileSync(dir.join('file'), '');
    const onFile = makeTemplate(guestOf(['pc.ram']), dir.join('file'));
    await assert.rejects(onFile, fails('EEXIST', /file is not a directory/));
    const nowhere = makeTemplate(guestOf(['pc.ram']), dir.join('none/golden'));
    await assert.rejects(nowhere, fails('ENOENT', /makeTemplate/));
  });

  test('refuses guests without machine, memory or a block to map, and blocks that no backend can have', async () => {
    await using dir = makeTempDir();
    const golden = dir.join('golden');
    const configuration = {
      ...{ machine: 'none', targetPageBits: null, uuid: null },
      capabilities: ['x-ignore-shared'],
    };
    const cases: [Partial<SavedGuest>, string[], string[] | undefined, string, RegExp][] = [
      [{ configuration: null }, ['pc.ram'], undefined, 'ENOTSUP', /does not name its machine type/],
      [{ configuration }, ['pc.ram'], undefined, 'ENOTSUP', /saved with x-ignore-shared/],
      [{}, ['vga.vram'], undefined, 'ENOTSUP', /choose with --block among "vga.vram"/],
      [{}, ['x', 'y'], undefined, 'ENOTSUP', /order of "x", "y".*--block NAME --block NAME/],
      [{}, ['pc.ram'], ['other'], 'EINVAL', /no RAM block "other"; its blocks are "pc.ram"/],
      [{}, ['pc.ram', '0000:00:02.0/vga.vram'], ['0000:00:02.0/vga.vram'], 'EINVAL', /cannot map/],
    ];
    for (const [more, names, blocks, code, message] of cases) {
      const making = makeTemplate(guestOf(names, more), golden, { blocks });
      await assert.rejects(making, fails(code, message));
    }
    assert.deepEqual(readdirSync(dir.path), []);
  });

  test('leaves nothing where a page cannot be read, or the signal is aborted', async () => {
    await using dir = makeTempDir();
    const pages = pagesOf(['pc.ram']);
    const broken = guestOf(['pc.ram'], {
      pages: {
        ...pages,
        read: () => Promise.reject(Object.assign(new Error('disk error'), { code: 'EIO' })),
      },
    });
    await assert.rejects(makeTemplate(broken, dir.join('golden')), fails('EIO', /disk error/));
    const aborted = makeTemplate(guestOf(['pc.ram']), dir.join('golden'), {
      signal: AbortSignal.abort(),
    });
    await assert.rejects(aborted, fails('ECANCELED', /abort/));
    assert.deepEqual(readdirSync(dir.path), []);
  });
});
