// Each expected stream is built by hand (helpers/stream-bytes.ts).
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { memoryOps } from '../../../adapters/index.ts';
import { MigrationWriter } from '../../../lib/migration/writer/migration-writer.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import {
  be16,
  be32,
  be64,
  blockList,
  command,
  configuration,
  counted,
  end,
  eos,
  header,
  page,
  piece,
  section,
  stream,
  subsection,
  vmDescription,
  word,
  workedExample,
  workedExampleDevice,
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';

const PAGE = 4096;
const RAM = { sectionId: 2, name: 'ram', instanceId: 0, versionId: 4 };
const BLOCK = { name: 'pc.ram', usedLength: 4 * PAGE, hostPageSize: null, address: null };
const VRAM = { name: 'vga.vram', usedLength: PAGE, hostPageSize: null, address: null };
const CONFIGURATION = { machine: 'none', targetPageBits: null, capabilities: [], uuid: null };
const DEVICE = { kind: 'full', sectionId: 5, name: 'demo', instanceId: 0, versionId: 1 } as const;

/** Return the bytes that a function writes. */
async function written(
  write: (writer: MigrationWriter) => void,
  options: ConstructorParameters<typeof MigrationWriter>[1] = {},
): Promise<Buffer> {
  const file = new QemuFile(memoryOps());
  write(new MigrationWriter(file, options));
  const size = file.tellFast();
  await file.flush();
  return file.readBuffer(size);
}

/** Return a writer with a `ram` section of two blocks begun. */
function inRam(kind: 'start' | 'part' = 'part'): MigrationWriter {
  const writer = new MigrationWriter(new QemuFile(memoryOps()));
  writer.header();
  writer.configuration(CONFIGURATION);
  writer.beginSection({ kind: 'start', ...RAM });
  writer.ram.listBlocks([BLOCK, VRAM]);
  if (kind === 'part') {
    writer.endSection();
    writer.beginSection({ kind: 'part', ...RAM });
  }
  return writer;
}

describe('a stream', () => {
  test('is written part by part', async () => {
    const bytes = await written((writer) => {
      writer.header();
      writer.configuration({ ...CONFIGURATION, machine: 'pc-i440fx-7.2' });
      writer.beginSection({ kind: 'start', ...RAM });
      writer.ram.listBlocks([{ ...BLOCK, usedLength: 0x2000 }, VRAM]);
      writer.endSection();
      writer.beginSection({ kind: 'part', ...RAM });
      writer.ram.page(0, 0, Buffer.alloc(PAGE, 0xaa));
      writer.ram.zero(0, PAGE);
      writer.endSection();
      writer.beginSection({ kind: 'end', ...RAM });
      writer.ram.zero(1, 0);
      writer.endSection();
      writer.beginSection(DEVICE);
      writer.body(stream('12345678 0001 0002 0003'));
      writer.body(subsection('demo/extra', 1, '01'));
      writer.endSection({ ...workedExampleDevice, name: '' });
      writer.end();
      writer.vmDescription();
    });
    assert.ok(bytes.equals(workedExample()));
  });

  test('has the subsections of its configuration in the order of QEMU', async () => {
    const bytes = await written((writer) => {
      writer.header();
      writer.configuration({
        machine: 'virt-7.2',
        targetPageBits: 12,
        capabilities: ['x-ignore-shared'],
        uuid: '00112233-4455-6677-8899-aabbccddeeff',
      });
      writer.end();
    });
    const expected = stream(
      header,
      configuration(
        'virt-7.2',
        subsection('configuration/target-page-bits', 1, be32(12)),
        subsection('configuration/capabilities', 1, be32(1), counted('x-ignore-shared')),
        subsection('configuration/uuid', 1, '00112233445566778899aabbccddeeff'),
      ),
      end,
    );
    assert.ok(bytes.equals(expected));
  });

  test('of an old machine type has neither a configuration nor footers', async () => {
    const bytes = await written(
      (writer) => {
        writer.header();
        writer.section(DEVICE, Buffer.of(7));
        writer.end();
      },
      { hasFooters: false },
    );
    const body = section('full', 5, ['demo', 0, 1], '07');
    assert.ok(bytes.equals(stream(header, body.subarray(0, -5), end)));
  });

  test('describes sections of which only the length is known as bytes', async () => {
    const bytes = await written((writer) => {
      writer.header();
      writer.section({ ...DEVICE, name: 'dém"o', instanceId: 3 }, Buffer.of(7, 8));
      writer.end();
      writer.vmDescription();
    });
    const text =
      '{"page_size": 4096, "devices": [{"name": "d\\u00e9m\\"o", "instance_id": 3, "size": 2, ' +
      '"fields": [{"name": "data", "size": 2, "type": "buffer"}]}]}';
    const body = section('full', 5, ['dém"o', 3, 1], '0708');
    assert.ok(bytes.equals(stream(header, body, end, vmDescription(text))));
  });

  test('has commands, and a package with its length', async () => {
    const bytes = await written((writer) => {
      writer.header();
      writer.command({ name: 'OPEN_RETURN_PATH' });
      writer.command({ name: 'PING', value: 1 });
      writer.command({ name: 'POSTCOPY_ADVISE', pageSizes: 0x1000n, targetPageSize: 4096 });
      const ranges = [{ start: 0x1000, length: 0x2000 }];
      writer.command({ name: 'POSTCOPY_RAM_DISCARD', block: 'pc.ram', ranges });
      writer.beginPackage();
      writer.command({ name: 'POSTCOPY_LISTEN' });
      writer.section(DEVICE, Buffer.of(7));
      writer.command({ name: 'POSTCOPY_RUN' });
      writer.endPackage();
      writer.command({ number: 0x1234, payload: Buffer.of(1, 2) });
      writer.command({ name: 'RECV_BITMAP', block: 'pc.ram' });
      writer.end();
    });
    const items = stream(command(4), section('full', 5, ['demo', 0, 1], '07'), command(5));
    const expected = stream(
      header,
      command(1),
      command(2, be32(1)),
      command(3, be64(0x1000), be64(4096)),
      command(6, '00', counted('pc.ram'), '00', be64(0x1000), be64(0x2000)),
      command(7, be32(items.length)),
      items,
      command(0x1234, '0102'),
      command(10, counted('pc.ram')),
      end,
    );
    assert.ok(bytes.equals(expected));
  });
});

describe('RAM records', () => {
  const content = Buffer.alloc(2 * PAGE, 'page');

  test('of all kinds name their block only if it is another than before', async () => {
    const bytes = await written((writer) => {
      writer.beginSection({ kind: 'start', ...RAM });
      writer.ram.listBlocks([
        { ...BLOCK, hostPageSize: 0x20_0000 },
        { ...VRAM, address: 0x1_0000_0000n },
      ]);
      writer.ram.multifdFlush();
      writer.endSection();
      writer.beginSection({ kind: 'part', ...RAM });
      writer.ram.pageAsync(0, PAGE, content);
      writer.ram.zero(0, 0);
      writer.ram.page(1, 0, content.subarray(0, PAGE));
      writer.ram.page(0, 0, content);
      writer.ram.zero(0, 2 * PAGE, 2);
      writer.ram.xbzrle(0, 0, Buffer.of(0, 1, 0xaa));
      writer.ram.nameNextBlock();
      writer.ram.compressedPage(0, PAGE, Buffer.of(0x78, 0x9c));
      writer.endSection();
      writer.beginSection({ kind: 'part', ...RAM });
      writer.ram.zero(0, 0, 1, 0xff);
      writer.ram.hook();
      writer.endSection();
    });
    const list = blockList(
      ['pc.ram', 4 * PAGE, be64(0x20_0000)],
      ['vga.vram', PAGE, be64(0x1_0000_0000)],
    );
    const one = content.subarray(0, PAGE);
    const expected = stream(
      section('start', 2, ['ram', 0, 4], list, be64(0x200), eos),
      piece(
        'part',
        2,
        page('pc.ram', PAGE, one),
        page(null, 2 * PAGE, one),
        zeroPage(null, 0),
        page('vga.vram', 0, one),
        page('pc.ram', 0, one),
        page(null, PAGE, one),
        zeroPage(null, 2 * PAGE),
        zeroPage(null, 3 * PAGE),
        word(null, 0, 0x40),
        '01',
        be16(3),
        '0001aa',
        word('pc.ram', PAGE, 0x100),
        be32(2),
        '789c',
        eos,
      ),
      piece('part', 2, zeroPage(null, 0, 0xff), be64(0x80), eos),
    );
    assert.ok(bytes.equals(expected));
  });

  test('holds a run of zeros of any length, also across an offset of 4 GiB', async () => {
    const usedLength = 0x2_0000_0000;
    const first = 0x1_0000_0000 - 600 * PAGE;
    const bytes = await written((writer) => {
      writer.beginSection({ kind: 'start', ...RAM });
      writer.ram.listBlocks([{ ...BLOCK, usedLength }]);
      writer.endSection();
      writer.beginSection({ kind: 'part', ...RAM });
      writer.ram.zero(0, first, 1000);
      writer.endSection();
    });
    const records = Array.from({ length: 1000 }, (_, at) =>
      zeroPage(at === 0 ? 'pc.ram' : null, first + at * PAGE),
    );
    const expected = stream(
      section('start', 2, ['ram', 0, 4], blockList(['pc.ram', usedLength]), eos),
      piece('part', 2, ...records, eos),
    );
    assert.ok(bytes.equals(expected));
  });

  test('by reference are released once, after the last of them was sent', async () => {
    const writer = inRam();
    let released = 0;
    writer.ram.pageAsync(0, 0, content, () => {
      released += 1;
    });
    assert.equal(released, 0);
    await writer.file.flush();
    assert.equal(released, 1);
  });

  for (const [what, write, reason] of [
    ['a page after the end of its block', (w) => w.ram.page(1, PAGE, content), /outside the block/],
    [
      'pages of which the last is outside',
      (w) => w.ram.page(0, 3 * PAGE, content),
      /outside the block of 0x4000 bytes/,
    ],
    ['a run of zeros that is too long', (w) => w.ram.zero(0, 0, 5), /outside the block/],
    ['a negative offset', (w) => w.ram.zero(0, -PAGE), /outside the block/],
    ['an offset inside a page', (w) => w.ram.zero(0, 1), /not whole pages of 4096/],
    ['part of a page', (w) => w.ram.page(0, 0, Buffer.alloc(100)), /not whole pages/],
    ['no page', (w) => w.ram.zero(0, 0, 0), /not whole pages/],
    ['a block that is not listed', (w) => w.ram.zero(2, 0), /RAM block 2 of 2 listed/],
    ['a second list', (w) => w.ram.listBlocks([BLOCK]), /listed already/],
    ['a long XBZRLE encoding', (w) => w.ram.xbzrle(0, 0, content), /8192 bytes for a page/],
  ] as readonly [string, (writer: MigrationWriter) => void, RegExp][]) {
    test(`refuse ${what}, with the section and the offset`, () => {
      const writer = inRam();
      const { position } = writer;
      assert.throws(
        () => write(writer),
        (error: Error & { code?: string; position?: number }) => {
          assert.match(error.message, reason);
          assert.match(error.message, /in section "ram": /);
          assert.deepEqual([error.code, error.position], ['EINVAL', position]);
          return true;
        },
      );
      assert.equal(writer.position, position, 'nothing was written');
    });
  }

  test('are refused before the list of blocks', () => {
    const writer = new MigrationWriter(new QemuFile(memoryOps()));
    writer.beginSection({ kind: 'start', ...RAM });
    assert.throws(() => writer.ram.zero(0, 0), /listBlocks must come before pages/);
  });

  for (const [what, blocks, reason] of [
    ['with a name twice', [BLOCK, BLOCK], /"pc.ram" is listed twice/],
    ['without a name', [{ ...BLOCK, name: '' }], /name of 0 bytes/],
    ['that are not whole pages', [{ ...BLOCK, usedLength: 1000 }], /not a whole number of pages/],
    [
      'with host pages smaller than pages',
      [{ ...BLOCK, hostPageSize: 1024 }],
      /host pages of 1024 bytes/,
    ],
  ] as const) {
    test(`refuse blocks ${what}`, () => {
      const writer = new MigrationWriter(new QemuFile(memoryOps()));
      writer.beginSection({ kind: 'start', ...RAM });
      assert.throws(() => writer.ram.listBlocks(blocks), { code: 'EINVAL', message: reason });
    });
  }
});

describe('a call that does not fit the calls before it throws, with nothing written:', () => {
  const start = { kind: 'start', sectionId: 9, name: 'x', instanceId: 0, versionId: 1 } as const;
  for (const [what, write, reason] of [
    ['a header in the middle', (w) => w.header(), /the header was written/],
    ['a section in a section', (w) => [start, DEVICE].map((s) => w.beginSection(s)), /is open/],
    ['a command in a section', (w) => [w.beginSection(DEVICE), w.end()], /the section is open/],
    ['the end mark in a section', (w) => [w.beginSection(DEVICE), w.end()], /is open/],
    ['the end mark in a package', (w) => [w.beginPackage(), w.end()], /a package is open/],
    ['a package in a package', (w) => [w.beginPackage(), w.beginPackage()], /a package is open/],
    ['the end of no package', (w) => w.endPackage(), /no package is open/],
    ['the end of no section', (w) => w.endSection(), /no section is open/],
    ['a body without a section', (w) => w.body(Buffer.of(1)), /no section is open/],
    ['RAM records without a section', (w) => w.ram.zero(0, 0), /no "ram" section is open/],
    ['a late configuration', (w) => [w.end(), w.configuration(CONFIGURATION)], /end mark was/],
    ['a description before the end mark', (w) => w.vmDescription(), /it cannot follow here/],
    ['a section after the end mark', (w) => [w.end(), w.beginSection(DEVICE)], /end mark was/],
    ['an id that was used', (w) => [1, 2].map(() => w.section(DEVICE, Buffer.of(1))), /id 5 bel/],
    ['a PART of nothing', (w) => w.beginSection({ ...start, kind: 'part' }), /not started/],
    ['a section without a name', (w) => w.beginSection({ ...start, name: '' }), /name of 0 bytes/],
    ['an id of 33 bits', (w) => w.beginSection({ ...start, sectionId: 2 ** 32 }), /not a 32-bit/],
    ['a long payload', (w) => w.command({ number: 1, payload: Buffer.alloc(65_536) }), /65536/],
    ['a value of 33 bits', (w) => w.command({ name: 'PING', value: 2 ** 32 }), /EINVAL/],
    [
      'a PART after its END',
      (w) => {
        w.section(start, Buffer.of(1));
        w.section({ ...start, kind: 'end' }, Buffer.of(1));
        w.beginSection({ ...start, kind: 'part' });
      },
      /has ended/,
    ],
  ] as readonly [string, (writer: MigrationWriter) => unknown, RegExp][]) {
    test(what, () => {
      const writer = new MigrationWriter(new QemuFile(memoryOps()));
      writer.header();
      assert.throws(() => write(writer), { code: 'EINVAL', message: reason });
    });
  }
});
