// Rules about the contents of a stream that no other test covers, and the result of breaking them.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { deflateSync } from 'node:zlib';
import type { MigrationEvent, RamBlock } from '../../lib/migration/format/events.ts';
import type { MigrationStreamError } from '../../lib/migration/format/stream-error.ts';
import { RamMap } from '../../lib/migration/memory/ram-map.ts';
import { StreamSummarizer } from '../../lib/migration/verify/summary.ts';
import {
  type Verification,
  type VerifyOptions,
  verifyStream,
} from '../../lib/migration/verify/verify.ts';
import { chunksOf, outline, readStream } from '../helpers/reading/read-stream.ts';
import { readHostile } from '../helpers/streams/hostile.ts';
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
  header,
  multifdInitial,
  multifdPacket,
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
} from '../helpers/streams/stream-bytes.ts';

const PAGE = 4096;
const list = blockList(['a', 4 * PAGE]);
const start = section('start', 2, RAM, list, eos);
const finish = piece('end', 2, eos);
const described = (...devices: readonly object[]): Buffer =>
  vmDescription({ page_size: PAGE, devices });
const rest = stream(finish, end, described());

function verify(bytes: Uint8Array, options: VerifyOptions = {}): Promise<Verification> {
  return verifyStream(chunksOf(bytes.length === 0 ? [] : [bytes]), options);
}

async function onlyFault(
  bytes: Uint8Array,
  options: VerifyOptions = {},
): Promise<MigrationStreamError> {
  const { faults } = await verify(bytes, options);
  assert.equal(faults.length, 1, faults.map(String).join());
  return faults[0] as MigrationStreamError;
}

/** Streams with a fault: its kind, its offset and its reason. */
type FaultCase = readonly [
  what: string,
  bytes: Buffer,
  fault: MigrationStreamError['fault'],
  position: number,
  reason: RegExp,
];

function testFaults(cases: readonly FaultCase[]): void {
  for (const [what, bytes, kind, position, reason] of cases) {
    test(`${what} is a fault`, async () => {
      const fault = await onlyFault(bytes);
      assert.match(fault.reason, reason);
      assert.deepEqual([fault.fault, fault.position], [kind, position], fault.message);
    });
  }
}

/** Streams with a warning, without a fault. */
type WarningCase = readonly [what: string, bytes: Buffer, warning: RegExp];

function testWarnings(cases: readonly WarningCase[]): void {
  for (const [what, bytes, warning] of cases) {
    test(`${what} is a warning`, async () => {
      const { faults, warnings } = await verify(bytes);
      assert.deepEqual(faults.map(String), []);
      assert.match(warnings.join('\n'), warning);
    });
  }
}

describe('header and configuration', () => {
  const body = stream(start, rest);
  const capabilities = (count: number, ...names: string[]): Buffer =>
    subsection('configuration/capabilities', 1, be32(count), ...names.map(counted));
  const bits = (value: number): Buffer =>
    subsection('configuration/target-page-bits', 1, be32(value));

  testFaults([
    ['a header with swapped bytes', stream('4d564551 03000000'), 'not-a-stream', 0, /swapped/],
    ['a stream of nothing', stream(), 'truncated', 0, /inside the header: 0 of 8 bytes/],
    ['version 0', stream('5145564d 00000000'), 'unsupported', 4, /stream version 0/],
    [
      'a machine name that is too long',
      stream(header, configuration('m'.repeat(4097)), body),
      'corrupt',
      9,
      /machine name of 4097 bytes/,
    ],
    ['7 bits of a page', stream(header, configuration('m', bits(7))), 'corrupt', 50, /7 target/],
    ['17 bits of a page', stream(header, configuration('m', bits(17))), 'corrupt', 50, /17 target/],
    [
      'a page size that the description contradicts',
      stream(
        header,
        configuration('m', bits(13)),
        section('start', 2, RAM, blockList(), eos),
        rest,
      ),
      'corrupt',
      54 + 38 + 18 + 1,
      /description has a page size of 4096 bytes, but RAM has pages of 8192/,
    ],
    [
      '65 capabilities',
      stream(header, configuration('m', capabilities(65))),
      'corrupt',
      46,
      /65 capabilities, more than 64/,
    ],
    [
      'a subsection that comes twice',
      stream(header, configuration('m', bits(12), bits(12))),
      'corrupt',
      54,
      /came twice/,
    ],
    [
      'a subsection of version 2',
      stream(header, configuration('m', subsection('configuration/uuid', 2, Buffer.alloc(16)))),
      'unsupported',
      34,
      /version 2 of subsection/,
    ],
  ]);

  test('a machine name can be as long as 4096 bytes, and empty', async () => {
    for (const name of ['m'.repeat(4096), '']) {
      const { faults, configuration: found } = await verify(
        stream(header, configuration(name), body),
      );
      assert.deepEqual(faults, []);
      assert.equal(found?.machine, name);
    }
  });
});

describe('sections', () => {
  const at = header.length + PC.length;
  const bare = (bytes: Buffer): Buffer => bytes.subarray(0, -5);
  const device = section('full', 5, ['dev', 0, 1], '0000002a');
  const x = [{ name: 'x', type: 'uint32', size: 4 }];
  const dev = { name: 'dev', instance_id: 0, vmsd_name: 'dev', version: 1, fields: x };

  testFaults([
    [
      'an item of type 6 before the end mark',
      stream(header, PC, start, described()),
      'corrupt',
      at + start.length,
      /0x06 after section "ram" does not begin an item/,
    ],
    [
      'a second configuration',
      stream(header, PC, start, PC),
      'corrupt',
      at + start.length,
      /0x07 after section "ram" does not begin an item/,
    ],
    [
      'a name with a NUL',
      stream(header, PC, '04 00000005', counted('a\0b'), be32(0), be32(1)),
      'corrupt',
      at + 5,
      /the name "a\\u\{0\}b"/,
    ],
    [
      'a PART of what came all at once',
      stream(header, PC, start, finish, device, piece('part', 5, eos), end, described(dev)),
      'corrupt',
      at + start.length + finish.length + device.length + 1,
      /section 5 \("dev"\), which came as SECTION_FULL/,
    ],
    [
      'a footer in a stream without',
      stream(header, PC, bare(start), finish, end, described()),
      'corrupt',
      at + start.length - 5 + finish.length - 5,
      /a section footer, although the sections before it have none/,
    ],
    [
      'no footer in a stream with some',
      stream(header, PC, start, bare(finish), end, described()),
      'corrupt',
      at + start.length + finish.length - 5,
      /no section footer after its body/,
    ],
    [
      'a version other than described',
      stream(
        header,
        PC,
        start,
        finish,
        section('full', 5, ['dev', 0, 2], '0000002a'),
        end,
        described(dev),
      ),
      'corrupt',
      at + start.length + finish.length,
      /has version 2, but the VM description has version 1/,
    ],
  ]);

  test('two of one name and instance are read, for there are machines that have them', async () => {
    const twin = section('full', 6, ['dev', 0, 1], '0000002b');
    const bytes = stream(header, PC, start, finish, device, twin, end, described(dev, dev));
    assert.deepEqual((await verify(bytes)).faults, []);
  });

  test('an END without pages is well', async () => {
    assert.deepEqual((await verify(stream(header, PC, start, rest))).faults, []);
  });

  test('reading continues after the footer of another section', async () => {
    const other = stream(start.subarray(0, -1), '09');
    const { faults } = await verify(stream(header, PC, other, rest), { all: true });
    assert.deepEqual(
      faults.map(({ reason }) => reason),
      ['the section footer has id 9, not 2'],
    );
  });

  test('bytes after the description are a warning with their number', async () => {
    const { faults, warnings } = await verify(stream(header, PC, start, rest, Buffer.alloc(7)));
    assert.deepEqual(faults, []);
    assert.match(warnings.join(), /7 bytes follow the stream/);
  });

  test('more than 65536 are a fault', async () => {
    const one = (id: number): Buffer => section('full', id, ['d', 0, 1], '00');
    const many = Array.from({ length: 65_537 }, (_, id) => one(id));
    const fault = await onlyFault(stream(header, PC, ...many, end));
    assert.match(fault.reason, /more than 65536 sections/);
  });

  test('too many pieces to list are still read', async () => {
    const pieces = Buffer.concat(Array.from({ length: 262_150 }, () => piece('part', 2, eos)));
    const { faults, sections } = await verify(stream(header, PC, start, pieces, rest));
    assert.deepEqual(faults, []);
    assert.equal(sections.length, 262_144);
  });
});

describe('the VM description', () => {
  const device = section('full', 5, ['dev', 0, 1], '0000002a');
  const before = stream(header, PC, start, finish, device, end);
  const at = before.length;

  testFaults([
    [
      'one of more than 64 MiB',
      stream(before, '06', be32(67_108_865), '7b'),
      'unsupported',
      at + 1,
      /67108865 bytes, more than 67108864/,
    ],
    [
      'one that is no JSON',
      stream(before, vmDescription('{"page_size" 4096}')),
      'corrupt',
      at + 18,
      /not JSON/,
    ],
  ]);

  test('that cannot be read leaves the devices as they are', async () => {
    const events: MigrationEvent[] = [];
    const { faults } = await verify(stream(before, vmDescription('{}')), {
      all: true,
      withoutDescription: true,
      onEvent: (event) => void events.push(event),
    });
    assert.equal(faults.length, 1);
    assert.match(outline(events).join('\n'), /device dev 0000002a/);
  });

  test('can have a bool that is neither 0 nor 1, which is a warning', async () => {
    const bool = { name: 'b', type: 'bool', size: 1 };
    const odd = { name: 'dev', instance_id: 0, version: 1, fields: [bool] };
    const bytes = stream(
      header,
      PC,
      start,
      finish,
      section('full', 5, ['dev', 0, 1], '02'),
      end,
      described(odd),
    );
    const { faults, warnings } = await verify(bytes);
    assert.deepEqual(faults, []);
    assert.match(warnings.join('\n'), /section "dev": b is a bool of 2, taken for true, at byte/);
  });

  test('that is waited for does not let devices pile up', async () => {
    const half = section('full', 5, ['one', 0, 1], Buffer.alloc(40_000_000, 1));
    const other = section('full', 6, ['two', 0, 1], Buffer.alloc(40_000_000, 1));
    const fault = await onlyFault(stream(header, PC, half, other, start, rest));
    assert.equal(fault.fault, 'unsupported');
    assert.match(fault.reason, /more than 67108864 bytes of device sections came before/);
  });
});

describe('commands', () => {
  const at = header.length + PC.length;
  const advise = command(3, be64(PAGE), be64(PAGE));

  testFaults([
    ['a second advice', stream(header, PC, advise, advise), 'corrupt', at + 21, /state "advised"/],
    ['LISTEN without advice', stream(header, PC, command(4)), 'corrupt', at, /state "none"/],
    [
      'RUN before LISTEN',
      stream(header, PC, advise, command(5)),
      'corrupt',
      at + 21,
      /"listening"/,
    ],
    [
      'an advice of other pages than the machine has',
      stream(header, PC, command(3, be64(8192), be64(8192))),
      'corrupt',
      at,
      /target page size of 8192, but the stream has pages of 4096/,
    ],
    [
      'a package with an item that goes beyond it',
      stream(header, PC, command(7, be32(3)), command(1), rest),
      'corrupt',
      at + 10,
      /an item exceeds the 3 bytes of its postcopy package/,
    ],
    [
      'a command that is not known',
      stream(header, PC, command(12, '0102'), start, rest),
      'unsupported',
      at + 1,
      /command 12 is unknown/,
    ],
  ]);
  testWarnings([
    [
      'a return path that is opened twice',
      stream(header, PC, command(1), command(1), start, rest),
      /OPEN_RETURN_PATH came a second time, at byte 31/,
    ],
  ]);

  test('a fault in a package is that fault, though the package is cut off', async () => {
    const bytes = stream(header, PC, command(7, be32(900)), command(4));
    assert.match((await onlyFault(bytes)).reason, /POSTCOPY_LISTEN came in postcopy state/);
  });

  test('a ping without a return path is well', async () => {
    const { faults } = await verify(stream(header, PC, command(2, be32(1)), start, rest));
    assert.deepEqual(faults, []);
  });
});

describe('RAM', () => {
  const at = header.length + PC.length + start.length + 5;
  const part = (...records: readonly Bytes[]): Buffer =>
    stream(header, PC, start, piece('part', 2, ...records, eos), rest);
  const withList = (blocks: Bytes, before: Bytes = ''): Buffer =>
    stream(header, PC, before, section('start', 2, RAM, blocks, eos), rest);
  const listAt = header.length + PC.length + 17;
  const advise = command(3, be64(PAGE | 0x200000), be64(PAGE));
  const compressed = deflateSync(Buffer.alloc(PAGE, 1));

  testFaults([
    [
      'a page that continues none',
      part(zeroPage(null, 0)),
      'corrupt',
      at,
      /CONTINUE, and no block to continue$/,
    ],
    ['a block without a name', part(zeroPage('', 0)), 'corrupt', at, /^page of "", which the list/],
    [
      'an end mark that continues',
      part(be64(FLAG.eos + FLAG.continue)),
      'corrupt',
      at,
      /has the flag CONTINUE, but no page$/,
    ],
    [
      'a flush that continues',
      part(be64(FLAG.flush + FLAG.continue)),
      'corrupt',
      at,
      /has the flag CONTINUE, but no page$/,
    ],
    [
      'a compressed page of nothing',
      part(word('a', 0, FLAG.compressed), be32(0)),
      'corrupt',
      at + 14,
      /^failed to decompress the page at 0x0 of "a"/,
    ],
    [
      'a compressed page whose sum is wrong',
      part(
        word('a', 0, FLAG.compressed),
        be32(compressed.length),
        compressed.subarray(0, -1),
        Uint8Array.of((compressed.at(-1) as number) ^ 1),
      ),
      'corrupt',
      at + 14,
      /incorrect data check/,
    ],
    [
      'an XBZRLE page of 2 bytes',
      part(word('a', 0, FLAG.xbzrle), '01', be16(2), '0001'),
      'corrupt',
      at + 11,
      /2 encoded bytes/,
    ],
    [
      'a host page that is no power of 2',
      withList(blockList(['a', 0x200000, be64(0x180000)]), advise),
      'corrupt',
      listAt + 21 + 18,
      /pages of 1572864 bytes/,
    ],
    [
      "a host page smaller than the target's",
      withList(blockList(['a', 0x200000, be64(1024)]), advise),
      'corrupt',
      listAt + 21 + 18,
      /host pages of 1024 bytes, smaller than the target's 4096/,
    ],
    [
      'an instance other than 0',
      stream(header, PC, section('start', 2, ['ram', 1, 4], list, eos), rest),
      'corrupt',
      at - start.length - 5,
      /^RAM section of instance 1, not 0$/,
    ],
  ]);

  testWarnings([
    ['a page filled with another byte', part(zeroPage('a', 0, 7)), /filled with 0x7/],
    ['an empty block', withList(blockList(['b', 0], ['a', PAGE])), /"b" is empty/],
    [
      'an XBZRLE page of a page that was not sent',
      part(word('a', 0, FLAG.xbzrle), '01', be16(6), '6404aabbccdd'),
      /1 page received an XBZRLE delta before a full copy/,
    ],
  ]);

  test('reading continues after words that continue no page', async () => {
    const words = stream(be64(FLAG.flush + FLAG.continue), zeroPage('a', 0));
    const { faults } = await verify(part(words), { all: true, channels: [] });
    assert.match(faults[0]?.reason ?? '', /has the flag CONTINUE, but no page$/);
  });

  test('more than 4096 blocks are a fault', async () => {
    const blocks = (count: number): Buffer =>
      blockList(...Array.from({ length: count }, (_, index) => [`b${index}`, PAGE] as const));
    assert.deepEqual((await verify(withList(blocks(4096)))).faults, []);
    assert.match((await onlyFault(withList(blocks(4097)))).reason, /more than 4096 RAM blocks/);
  });

  test('RAM can have 2^50 bytes, and not more', async () => {
    assert.deepEqual((await verify(withList(blockList(['a', 2 ** 50])))).faults, []);
    const fault = await onlyFault(withList(blockList(['a', 2 ** 50], ['b', PAGE])));
    assert.match(fault.reason, /RAM of 1125899906846720 bytes, at most 1125899906842624/);
  });

  test('pages in channels that were not given are a fault', async () => {
    const fault = await onlyFault(part(be64(FLAG.flush)));
    assert.match(fault.reason, /the pages are in multifd channels, which were not given/);
  });

  const unknown = (size: number, ...records: readonly Bytes[]): Buffer =>
    stream(
      header,
      configuration('none'),
      section('start', 2, RAM, blockList(['a', size]), eos),
      piece('part', 2, ...records, eos),
      rest,
    );

  test('pages of unknown size must lie in line, in whole numbers', async () => {
    for (const [bytes, reason] of [
      [unknown(4 * PAGE, page('a', 1024, Buffer.alloc(2000))), /not a whole number|not a multiple/],
      [unknown(4 * PAGE, word('a', 1024, FLAG.xbzrle), '01', be16(3), '000101'), /not a multiple/],
      [unknown(4 * PAGE, zeroPage('a', 0), word(null, 1024, FLAG.compressed)), /not a multiple/],
      // As none of the usual sizes fits, it would have to be 64 KiB.
      [unknown(4 * PAGE, page('a', 0, Buffer.alloc(70_000, 0xee))), /not a whole number/],
    ] as const) {
      const faults = await readHostile({ main: bytes });
      assert.equal(faults.length, 1);
      assert.match((faults[0] as MigrationStreamError).reason, reason);
    }
  });

  test('a page of unknown size filled with a byte does not reach over its place', async () => {
    const bytes = unknown(4 * PAGE, zeroPage('a', 0), zeroPage(null, 0x2c00, 9));
    const { ram } = await readStream([
      stream(
        bytes.subarray(0, -described().length),
        vmDescription({ page_size: 1024, devices: [] }),
      ),
    ]);
    const wanted = Buffer.alloc(4 * PAGE);
    wanted.fill(9, 0x2c00, 0x3000);
    assert.deepEqual(ram.get('a'), wanted);
  });

  test('a block of no whole pages of 4 KiB has pages of 1 KiB', async () => {
    const bytes = stream(
      header,
      configuration('none'),
      section('start', 2, RAM, blockList(['a', 3072]), eos),
      piece('end', 2, zeroPage('a', 0), eos),
      end,
      vmDescription({ page_size: 1024, devices: [] }),
    );
    assert.deepEqual(await readHostile({ main: bytes }), []);
  });
});

describe('long lists', () => {
  test('warnings are given up to a thousand', async () => {
    const pages = Array.from({ length: 3000 }, () => zeroPage('a', 0, 1));
    const bytes = stream(header, PC, start, piece('part', 2, ...pages, eos), rest);
    const { faults, warnings } = await verify(bytes);
    assert.deepEqual(faults, []);
    assert.equal(warnings.filter((warning) => /filled with/.test(warning)).length, 1000);
    assert.match(warnings[1000] ?? '', /further warnings are left out/);
  });

  test('faults are taken note of up to a thousand, then the next one is the last', async () => {
    const pages = Array.from({ length: 3000 }, () => zeroPage('a', 4 * PAGE));
    const bytes = stream(header, PC, start, piece('part', 2, ...pages, eos), rest);
    const { faults } = await verify(bytes, { all: true });
    assert.equal(faults.length, 1001);
  });

  test('of sections and commands are cut at a limit, with a note', async () => {
    const summarizer = new StreamSummarizer();
    for (let offset = 0; offset < 262_147; offset++) {
      summarizer.add({
        type: 'command',
        offset,
        bytes: 5,
        number: 1,
        command: { name: 'OPEN_RETURN_PATH' },
      });
    }
    const { reader } = await readStream([stream(header, PC, start, rest)]);
    const { commands, warnings } = summarizer.summary(reader.ram, null);
    assert.equal(commands.length, 262_144);
    assert.deepEqual(warnings, ['only the first 262144 commands are listed']);
  });

  test('pages of zeros in one run are noted in no time that grows with them', () => {
    const map = new RamMap();
    const block: RamBlock = {
      index: 0,
      name: 'a',
      usedLength: 2 ** 42,
      hostPageSize: null,
      address: null,
      pages: { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 },
    };
    map.blocks([block], PAGE);
    const begin = process.cpuUsage();
    map.zero(block, 0, 2 ** 27);
    map.zero(block, 2 ** 20 * PAGE, 2 ** 27);
    const { user } = process.cpuUsage(begin);
    const [cell] = map.cells(block, 1);
    assert.deepEqual([cell?.zero, cell?.resent], [2 ** 27 + 2 ** 20, 2 ** 27 - 2 ** 20]);
    assert.ok(user < 5_000_000, `${user} µs`);
  });

  test('values of devices are decoded up to a number in all', async () => {
    const fields = [{ name: 'x', array_len: 600_000, type: 'uint8', size: 1 }];
    const names = Array.from({ length: 15 }, (_, index) => `d${index}`);
    const device = (name: string): object => ({ name, instance_id: 0, version: 1, fields });
    const body = Buffer.alloc(600_000, 1);
    const bytes = stream(
      header,
      PC,
      start,
      finish,
      ...names.map((name, index) => section('full', 10 + index, [name, 0, 1], body)),
      end,
      described(...names.map(device)),
    );
    const fault = await onlyFault(bytes);
    assert.equal(fault.fault, 'unsupported');
    assert.equal(fault.section?.name, 'd13');
  });

  test('rounds of a page each take no time that grows with the number of blocks', async () => {
    const names = Array.from({ length: 4096 }, (_, index) => `b${index}`);
    const blocks = blockList(...names.map((name) => [name, PAGE] as const));
    // Each page is before the one before.
    const pages = Array.from({ length: 100_000 }, (_, index) =>
      zeroPage(names[index % 2 === 0 ? 4095 : 0] as string, 0),
    );
    const bytes = stream(
      header,
      PC,
      section('start', 2, RAM, blocks, eos),
      piece('part', 2, Buffer.concat(pages), eos),
      rest,
    );
    const begin = process.cpuUsage();
    const { reader } = await readStream([bytes], { pages: { zero: () => {} } });
    const { user } = process.cpuUsage(begin);
    const rounds = reader.ram.rounds();
    assert.equal(rounds.length, 4096);
    assert.equal(
      rounds.reduce((sum, { zero }) => sum + zero, 0),
      100_000,
    );
    assert.ok(user < 10_000_000, `${user} µs`);
  });

  test('small device sections without a description are found in time linear in their number', async () => {
    const one = (id: number): Buffer => section('full', id, ['d', id, 1], '00');
    const many = Array.from({ length: 30_000 }, (_, id) => one(id + 10));
    const bytes = stream(header, PC, ...many, start, finish, end);
    const begin = process.cpuUsage();
    const { faults } = await verify(bytes, { withoutDescription: true });
    const { user } = process.cpuUsage(begin);
    assert.deepEqual(faults, []);
    assert.ok(user < 15_000_000, `${user} µs`);
  });
});

describe('channels', () => {
  const sync = multifdPacket({ flags: 1 });
  const main = stream(
    header,
    configuration('pc', subsection('configuration/uuid', 1, '000102030405060708090a0b0c0d0e0f')),
    section('start', 2, RAM, list, be64(FLAG.flush), eos),
    rest,
  );
  const uuid = '000102030405060708090a0b0c0d0e0f';
  const channels = (...all: readonly Buffer[]): VerifyOptions => ({
    channels: all.map((bytes) => chunksOf(bytes.length === 0 ? [] : [bytes])),
  });

  test('belong to the guest that the main channel names', async () => {
    const good = stream(multifdInitial(0, uuid), sync);
    assert.deepEqual((await verify(main, channels(good))).faults, []);
    const bad = stream(multifdInitial(0, 'ff'.repeat(16)), sync);
    assert.match((await onlyFault(main, channels(bad))).reason, /belong to another guest/);
  });

  test('without a byte read are a fault: one may be damaged', async () => {
    const good = stream(multifdInitial(0, uuid), sync);
    const damaged = stream(good);
    damaged[0] = 0x12;
    const fault = await onlyFault(main, channels(good, damaged));
    assert.match(fault.reason, /additional channel 2 of 2 is not a multifd channel/);
    assert.match((await onlyFault(main, channels(good, stream()))).reason, /2 of 2 is empty/);
    const short = await onlyFault(main, channels(good, good.subarray(0, 3)));
    assert.deepEqual([short.fault, short.position], ['truncated', 3]);
  });

  test('of postcopy pages can be empty if there was no postcopy', async () => {
    const bytes = stream(header, PC, command(3, be64(PAGE), be64(PAGE)), start, rest);
    assert.deepEqual((await verify(bytes, channels(stream()))).faults, []);
  });

  test('are all given up if one of them is refused', async () => {
    let given = 0;
    async function* endless(bytes: Buffer): AsyncGenerator<Uint8Array, void> {
      try {
        for (;;) yield bytes;
      } finally {
        given += 1;
      }
    }
    const options = { channels: [endless(multifdInitial(0)), endless(header)] };
    assert.match((await onlyFault(main, options)).reason, /is a main channel/);
    assert.equal(given, 2);
  });
});

describe('mapped-ram', () => {
  const MIB = 1_048_576;
  const capabilities = subsection('configuration/capabilities', 1, be32(1), counted('mapped-ram'));
  const before = stream(
    header,
    configuration('pc', capabilities),
    '01',
    be32(2),
    counted('ram'),
    be32(0),
    be32(4),
    be64(2 * PAGE + FLAG.memSize),
    counted('a'),
    be64(2 * PAGE),
  );
  const at = before.length;
  const bitmapAt = at + 28;

  interface Fields {
    version?: number;
    size?: number;
    bitmap?: number;
    pages?: number;
    bits?: string;
    data?: Buffer;
  }
  function mapped(fields: Fields = {}): Buffer {
    const { version = 1, size = PAGE, bitmap = bitmapAt, pages = MIB, bits = '03' } = fields;
    const { data = Buffer.alloc(2 * PAGE, 1) } = fields;
    const head = stream(be32(version), be64(size), be64(bitmap), be64(pages));
    const gap = Buffer.alloc(Math.max(0, pages - bitmapAt - 8));
    return stream(before, head, bits, '00'.repeat(7), gap, data, eos, '7e', be32(2), rest);
  }

  test('is read', async () => {
    const { faults, warnings } = await verify(mapped());
    assert.deepEqual([faults, warnings], [[], []]);
  });

  testFaults([
    ['a header of version 2', mapped({ version: 2 }), 'unsupported', at, /version 2, not 1/],
    ['pages of no bytes', mapped({ size: 0 }), 'corrupt', at + 4, /pages of 0 bytes/],
    ['pages of another size', mapped({ size: 8192 }), 'corrupt', at + 4, /8192 bytes, not 4096/],
    ['a bitmap before its header', mapped({ bitmap: 0 }), 'corrupt', at + 12, /said to be at 0/],
    [
      'a bitmap further on',
      mapped({ bitmap: MIB }),
      'corrupt',
      at + 12,
      /not at \d+; if the stream was written at offset \d+ of its file, give that offset$/,
    ],
    ['pages in the bitmap', mapped({ pages: 0 }), 'corrupt', at + 20, /said to be at 0/],
    ['pages out of line', mapped({ pages: MIB + 1 }), 'corrupt', at + 20, /said to be at 1048577/],
    [
      'a page that the file does not have',
      mapped({ data: Buffer.alloc(0) }).subarray(0, MIB + 100),
      'truncated',
      MIB,
      /inside the pages of "a"/,
    ],
  ]);
  testWarnings([
    [
      'pages at no multiple of 1 MiB',
      mapped({ pages: 2 * PAGE }),
      /at 8192 .*not a multiple of 1 MiB/,
    ],
    ['a bit beyond the pages', mapped({ bits: '07' }), /bits beyond its 2 pages/],
    ['no page at all', mapped({ bits: '00' }), /the save may not have been finished/],
  ]);

  test('of a block whose bitmap is too large is refused before that is read', async () => {
    const huge = stream(
      before.subarray(0, -18),
      be64(2 ** 49 + FLAG.memSize),
      counted('a'),
      be64(2 ** 49),
      be32(1),
      be64(PAGE),
      be64(bitmapAt),
      be64(2 ** 40),
    );
    const fault = await onlyFault(huge);
    assert.deepEqual([fault.fault, fault.position], ['unsupported', at]);
  });
});

describe('names out of a stream', () => {
  const NAMES = ['../../etc/passwd', '/dev/null', '__proto__', 'constructor', 'a\u202eb', '$(id)'];

  test('stay names', async () => {
    const blocks = blockList(...NAMES.map((name) => [name, PAGE] as const));
    const devices = NAMES.map((name) => ({
      name,
      instance_id: 0,
      version: 1,
      fields: [{ name, type: 'uint8', size: 1 }],
    }));
    const bytes = stream(
      header,
      configuration('../../m'),
      section('start', 2, RAM, blocks, eos),
      finish,
      ...NAMES.map((name, index) => section('full', 10 + index, [name, 0, 1], '07')),
      end,
      described(...devices),
    );
    const { events, ram, reader } = await readStream([bytes]);
    assert.deepEqual([...ram.keys()], NAMES);
    const summarizer = new StreamSummarizer();
    for (const event of events) summarizer.add(event);
    const { devices: shown } = summarizer.summary(reader.ram, null);
    assert.deepEqual(Object.keys(shown).sort(), [...NAMES].sort());
    assert.equal(Object.getPrototypeOf(shown), Object.prototype);
    assert.equal(({} as Record<string, unknown>).b, undefined);
    for (const name of NAMES) {
      const state = Object.getOwnPropertyDescriptor(shown, name)?.value as object;
      assert.equal(Object.getOwnPropertyDescriptor(state, name)?.value, 7);
    }
  });

  test('reach no file, process or network, because no module that reads streams imports any', () => {
    const folder = fileURLToPath(new URL('../../lib/migration/', import.meta.url));
    const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) =>
      file.endsWith('.ts'),
    );
    assert.ok(files.length > 50);
    for (const file of files) {
      let source = readFileSync(folder + file, 'utf8');
      if (file === join('stream-pages', 'positioned-reads.ts')) {
        // It reads at positions of a descriptor that the caller opened: these functions take no path.
        const reads = "import { fstatSync, read, readSync } from 'node:fs';";
        assert.ok(source.includes(reads));
        source = source.replace(reads, '');
      }
      const imports = [...source.matchAll(/from '(?:node:)?([a-z_/]+)'/g)].map(([, name]) => name);
      // The one worker thread runs a fixed program; what comes out of a stream is only bytes to it.
      const hasWorker = file === join('multifd', 'worker-zstd-decoder.ts');
      const allowed = hasWorker ? /^(module|worker_threads)$/ : /^(zlib|stream|buffer)$/;
      for (const name of imports) assert.match(name ?? '', allowed, file);
      // A module of the package may be loaded when it is needed: its path is fixed.
      const others = source.replaceAll(/import\('\.{1,2}\/[a-z0-9/-]+\.ts'\)/g, '');
      const loads = [...others.matchAll(/import\(|require\((.*?)\)|process\./g)].map(
        ([, name]) => name,
      );
      const program = ["'node:worker_threads'", 'workerData.fzstdPath'];
      assert.deepEqual(loads, hasWorker ? program : [], file);
    }
  });
});
