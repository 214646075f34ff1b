// RAM as the reader reads it: the list of blocks, records of pages, and their faults.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { deflateSync } from 'node:zlib';
import type { MigrationStreamError } from '../../../lib/migration/format/stream-error.ts';
import { readStream } from '../../helpers/reading/read-stream.ts';
import {
  type Bytes,
  be16,
  be32,
  be64,
  blockList,
  command,
  configuration,
  counted,
  end,
  eos,
  FLAG,
  footer,
  header,
  NO_DEVICES,
  PC,
  page,
  piece,
  RAM,
  section,
  stream,
  subsection,
  vmDescription,
  word,
  zeroPage,
} from '../../helpers/streams/stream-bytes.ts';
import { fault, ramStream } from './ram-stream.ts';

const PAGE = 4096;

describe('RAM records', () => {
  const list = blockList(['a', 4 * PAGE], ['b', 2 * PAGE]);
  const full = (byte: number): Buffer => Buffer.alloc(PAGE, byte);

  test('continue a block across sections', async () => {
    const bytes = stream(
      header,
      PC,
      section('start', 2, RAM, list, eos),
      piece('part', 2, page('b', 0, full(1)), eos),
      piece('end', 2, page(null, PAGE, full(2)), zeroPage('a', 0), zeroPage(null, PAGE), eos),
      end,
      NO_DEVICES,
    );
    const { ram, reader } = await readStream([bytes]);
    assert.deepEqual(ram.get('b'), Buffer.concat([full(1), full(2)]));
    assert.deepEqual(
      reader.ram.blocks.map(({ pages }) => [pages.zero, pages.normal]),
      [
        [2, 0],
        [0, 2],
      ],
    );
  });

  test('that repeat pages are applied in order, and count as another round', async () => {
    const bytes = ramStream(
      list,
      page('a', 0, full(1)),
      page(null, PAGE, full(2)),
      page('b', 0, full(3)),
      page('a', 0, full(4)),
      zeroPage(null, PAGE),
    );
    const { ram, reader } = await readStream([bytes]);
    assert.deepEqual(ram.get('a')?.subarray(0, 2 * PAGE), Buffer.concat([full(4), full(0)]));
    assert.deepEqual(
      reader.ram.rounds().map(({ normal, zero }) => [normal, zero]),
      [
        [3, 0],
        [1, 1],
      ],
    );
  });

  test('of zeros that follow each other are handed over together', async () => {
    const runs: string[] = [];
    const zeros = [0, 1, 2, 3].map((at) => zeroPage(at === 0 ? 'a' : null, at * PAGE));
    await readStream([ramStream(list, ...zeros, zeroPage('b', PAGE), zeroPage(null, 0))], {
      pages: { zero: (block, offset, count) => void runs.push(`${block.name} ${offset} ${count}`) },
    });
    assert.deepEqual(runs, ['a 0 1', 'a 4096 3', 'b 4096 1', 'b 0 1']);
  });

  test('filled with another byte than zero are pages of that byte, with a warning', async () => {
    const { ram, events } = await readStream([
      ramStream(list, zeroPage('a', 0, 7), zeroPage(null, PAGE, 8), zeroPage(null, 2 * PAGE)),
    ]);
    assert.deepEqual(
      ram.get('a')?.subarray(0, 3 * PAGE),
      Buffer.concat([full(7), full(8), full(0)]),
    );
    const warnings = events.filter(({ type }) => type === 'warning');
    assert.equal(warnings.length, 2);
    assert.match(
      (warnings[0] as { message: string }).message,
      /page at 0x0 of "a" is filled with 0x7/,
    );
  });

  test('through zlib are unpacked', async () => {
    const packed = deflateSync(full(9));
    const record = stream(word('a', PAGE, FLAG.compressed), be32(packed.length), packed);
    const { ram, reader } = await readStream([ramStream(list, record)]);
    assert.deepEqual(ram.get('a')?.subarray(PAGE, 2 * PAGE), full(9));
    assert.equal(reader.ram.blocks[0]?.pages.compressed, 1);
  });

  test('as what changed go to the visitor as they are', async () => {
    // Bytes 100 to 103 become aa bb cc dd.
    const encoded = stream('64 04 aa bb cc dd');
    const record = stream(word('a', PAGE, FLAG.xbzrle), '01', be16(encoded.length), encoded);
    const seen: string[] = [];
    await readStream([ramStream(list, page('a', 0, full(1)), record)], {
      pages: {
        xbzrle: (block, offset, bytes) =>
          void seen.push(`${block.name} ${offset} ${Buffer.from(bytes).toString('hex')}`),
      },
    });
    assert.deepEqual(seen, ['a 4096 6404aabbccdd']);
  });

  test('mark the end of a multifd round in between', async () => {
    const { reader } = await readStream([
      ramStream(list, zeroPage('a', 0), be64(FLAG.flush), zeroPage('a', PAGE)),
    ]);
    assert.equal(reader.ram.usesMultifd, true);
    assert.equal(reader.ram.blocks[0]?.pages.zero, 2);
  });

  for (const size of [1024, 8192, 16384, 65536]) {
    test(`can have pages of ${size} bytes, known from the first one`, async () => {
      const wide = (byte: number): Buffer => Buffer.alloc(size, byte);
      const bytes = stream(
        header,
        configuration('none'),
        section('start', 2, RAM, blockList(['a', 4 * 65536]), eos),
        piece(
          'part',
          2,
          page('a', 0, wide(1)),
          page(null, size, wide(2)),
          zeroPage(null, 2 * size),
          eos,
        ),
        piece('end', 2, eos),
        end,
        vmDescription(`{"page_size": ${size}, "devices": []}`),
      );
      const { ram, reader } = await readStream([bytes]);
      assert.equal(reader.ram.pageSize, size);
      assert.deepEqual(ram.get('a')?.subarray(0, 2 * size), Buffer.concat([wide(1), wide(2)]));
    });
  }

  test('have the page size of the configuration', async () => {
    const bytes = stream(
      header,
      configuration('virt-7.2', subsection('configuration/target-page-bits', 1, be32(14))),
      section('start', 2, RAM, blockList(['a', 32768]), eos),
      piece('end', 2, page('a', 16384, Buffer.alloc(16384, 5)), eos),
      end,
      vmDescription('{"page_size": 16384, "devices": []}'),
    );
    const { reader, ram } = await readStream([bytes]);
    assert.equal(reader.ram.pageSize, 16384);
    assert.equal(ram.get('a')?.[16384], 5);
  });

  const malformed: [name: string, records: Bytes[], reason: RegExp][] = [
    [
      'with flags that do not go together',
      [word('a', 0, FLAG.page + FLAG.zero)],
      /^unknown combination of migration flags in RAM word 0xa$/,
    ],
    ['without any flag', [be64(0)], /^unknown combination of migration flags in RAM word 0x0$/],
    [
      'with a bit between flags and offset',
      [be64(0x400 + FLAG.page)],
      /^unknown combination of migration flags in RAM word 0x408$/,
    ],
    [
      'with the flag of 2008',
      [be64(1)],
      /^unknown combination of migration flags in RAM word 0x1$/,
    ],
    [
      'that continue no block',
      [zeroPage(null, 0)],
      /has the flag CONTINUE, and no block to continue$/,
    ],
    [
      'of a block that is not listed',
      [zeroPage('c', 0)],
      /^page of "c", which the list of RAM blocks lacks$/,
    ],
    [
      'of a block without a name',
      [zeroPage('', 0)],
      /^page of "", which the list of RAM blocks lacks$/,
    ],
    [
      'past the end of their block',
      [zeroPage('b', 2 * PAGE)],
      /^illegal RAM offset 0x2000 in "b" of 0x2000 bytes$/,
    ],
    [
      'with an end mark that has an offset',
      [be64(PAGE + FLAG.eos)],
      /^RAM word 0x1010 has an offset, but no page$/,
    ],
    ['with a second list', [list], /second list of RAM blocks/],
    ['whose end mark is missing', [footer(2)], /footer \(7e000000.*end mark \(EOS\) is missing/],
    ['that RDMA moved', [be64(FLAG.hook)], /RDMA/],
    [
      'of another encoding than XBZRLE',
      [word('a', 0, FLAG.xbzrle), '02', be16(6), '6404aabbccdd'],
      /encoding 0x2/,
    ],
    ['of XBZRLE without bytes', [word('a', 0, FLAG.xbzrle), '01', be16(0)], /0 encoded bytes/],
    ['of XBZRLE longer than a page', [word('a', 0, FLAG.xbzrle), '01', be16(4097)], /4097 encoded/],
    [
      'of XBZRLE that leaves the page',
      [word('a', 0, FLAG.xbzrle), '01', be16(4), 'ff1f02 77'],
      /^failed to decode the XBZRLE page at 0x0 of "a"/,
    ],
    [
      'compressed to more than zlib makes of a page',
      [word('a', 0, FLAG.compressed), be32(4111)],
      /^invalid compressed data length: 4111 bytes, at most 4110$/,
    ],
    [
      'compressed that unpack to less than a page',
      [word('a', 0, FLAG.compressed), packed(deflateSync(Buffer.alloc(100)))],
      /: it inflates to 100 bytes$/,
    ],
    [
      'compressed that unpack to more than a page',
      [word('a', 0, FLAG.compressed), packed(deflateSync(Buffer.alloc(5000)))],
      /^failed to decompress the page at 0x0 of "a"/,
    ],
    [
      'compressed with bytes left over',
      [word('a', 0, FLAG.compressed), packed(stream(deflateSync(Buffer.alloc(4096)), '0000'))],
      /: 2 bytes follow its zlib stream$/,
    ],
    [
      'compressed and damaged',
      [word('a', 0, FLAG.compressed), packed(stream('789c', Buffer.alloc(20, 0xff)))],
      /^failed to decompress the page at 0x0 of "a"/,
    ],
  ];
  function packed(bytes: Uint8Array): Buffer {
    return stream(be32(bytes.length), bytes);
  }
  for (const [name, records, reason] of malformed) {
    test(`${name} are a fault that says where`, async () => {
      const error = await fault(ramStream(list, ...records));
      assert.match(error.reason, reason);
      assert.match(error.message, /in section "ram"/);
      // The PART begins at 107, its body at 112.
      const start = ramStream(list).length - piece('end', 2, eos).length - 1 - NO_DEVICES.length;
      const body = start - piece('part', 2, eos).length + 5;
      assert.ok((error.position ?? 0) >= body, error.message);
    });
  }

  test('with a fault inside are read on if faults are collected', async () => {
    const faults: string[] = [];
    const bytes = ramStream(list, page('b', 2 * PAGE, full(1)), page(null, PAGE, full(2)));
    const { ram } = await readStream([bytes], {
      onFault: (error: MigrationStreamError) => void faults.push(error.reason),
    });
    assert.deepEqual(faults, ['illegal RAM offset 0x2000 in "b" of 0x2000 bytes']);
    assert.deepEqual(ram.get('b'), Buffer.concat([full(0), full(2)]));
  });
});

describe('a list of RAM blocks', () => {
  const faults: [name: string, list: Bytes, reason: RegExp][] = [
    ['names a block twice', blockList(['a', PAGE], ['a', PAGE]), /"a" is listed twice$/],
    ['has a block without a name', blockList(['', PAGE]), /without a name/],
    [
      'is longer than its sum',
      stream(be64(PAGE + FLAG.memSize), counted('a'), be64(2 * PAGE)),
      /only 4096/,
    ],
    [
      'has a block of no whole pages',
      blockList(['a', 5000], ['b', 3192]),
      /not a (multiple|whole number)/,
    ],
    [
      'is of more memory than there can be',
      be64(2 ** 52 + FLAG.memSize),
      /RAM of \d+ bytes, at most/,
    ],
    [
      'has a block of more memory than there can be',
      stream(be64(PAGE + FLAG.memSize), counted('a'), be64(2n ** 60n)),
      /"a" has 1152921504606846976 bytes/,
    ],
  ];
  for (const [name, list, reason] of faults) {
    test(`that ${name} is a fault`, async () => {
      assert.match((await fault(ramStream(list))).reason, reason);
    });
  }

  test('can be empty', async () => {
    const { reader } = await readStream([ramStream(blockList())]);
    assert.equal(reader.ram.blocks.length, 0);
  });

  const advised = stream(header, PC, command(1), command(3, be64(PAGE | 0x200000), be64(PAGE)));
  const rest = stream(piece('end', 2, eos), end, NO_DEVICES);

  test('has the page sizes of blocks after an advice, where they have one', async () => {
    const list = blockList(
      ['a', 0x200000, be64(0x200000)],
      ['b', PAGE],
      ['c', 0x200000, be64(0x200000)],
    );
    const bytes = stream(advised, section('start', 2, RAM, list, eos), rest);
    const { reader } = await readStream([bytes]);
    assert.deepEqual(
      reader.ram.blocks.map(({ name, hostPageSize }) => [name, hostPageSize]),
      [
        ['a', 0x200000],
        ['b', null],
        ['c', 0x200000],
      ],
    );
  });

  test('has addresses with x-ignore-shared, distinguished from page sizes', async () => {
    const ignoreShared = subsection(
      'configuration/capabilities',
      1,
      be32(1),
      counted('x-ignore-shared'),
    );
    const list = blockList(
      ['a', 0x200000, be64(0x200000), be64(0)],
      ['b', PAGE, be64(0xc0000)],
      ['c', PAGE, be64(0x100000000n)],
    );
    const bytes = stream(
      header,
      configuration('pc', ignoreShared),
      command(3, be64(PAGE | 0x200000), be64(PAGE)),
      section('start', 2, RAM, list, eos),
      rest,
    );
    const { reader } = await readStream([bytes]);
    assert.deepEqual(
      reader.ram.blocks.map(({ hostPageSize, address }) => [hostPageSize, address]),
      [
        [0x200000, 0n],
        [null, 0xc0000n],
        [null, 0x100000000n],
      ],
    );
  });
});
