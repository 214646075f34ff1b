import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MigrationStreamError } from '../../../lib/migration/format/stream-error.ts';
import { MigrationReader } from '../../../lib/migration/reader/migration-reader.ts';
import {
  deviceKey,
  StreamSummarizer,
  type StreamSummary,
} from '../../../lib/migration/verify/summary.ts';
import { chunksOf } from '../../helpers/reading/read-stream.ts';
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
  workedExample,
} from '../../helpers/streams/stream-bytes.ts';

/** Read a stream to its end or first fault; return the summary as JSON. */
async function summaryOf(bytes: Uint8Array): Promise<StreamSummary> {
  const reader = new MigrationReader(chunksOf([bytes]));
  const summarizer = new StreamSummarizer();
  try {
    for await (const event of reader) summarizer.add(event);
  } catch (error) {
    if (!(error instanceof MigrationStreamError)) throw error;
  }
  return JSON.parse(JSON.stringify(summarizer.summary(reader.ram, null))) as StreamSummary;
}

/** A device of one 64-bit integer and two bytes, and its description. */
function device(id: number, name: string, instanceId: number, value: bigint) {
  const fields = [
    { name: 'big', type: 'uint64', size: 8 },
    { name: 'bytes', type: 'buffer', size: 2 },
  ];
  return {
    bytes: section('full', id, [name, instanceId, 1], be64(value), 'beef'),
    described: { name, instance_id: instanceId, vmsd_name: 'd', version: 1, fields },
  };
}

function withDevices(...devices: ReturnType<typeof device>[]): Buffer {
  return stream(
    header,
    configuration('none'),
    ...devices.map(({ bytes }) => bytes),
    end,
    vmDescription({ page_size: 4096, devices: devices.map(({ described }) => described) }),
  );
}

describe('the devices of a summary', () => {
  test('are ready for JSON: integers beyond 2^53-1 as text, bytes as digits', async () => {
    const { devices } = await summaryOf(
      withDevices(
        device(1, 'a', 0, 2n ** 53n - 1n),
        device(2, 'b', 0, 2n ** 53n),
        device(3, 'c', 0, 2n ** 64n - 1n),
      ),
    );
    assert.deepEqual(devices, {
      a: { big: 9007199254740991, bytes: 'beef' },
      b: { big: '9007199254740992', bytes: 'beef' },
      c: { big: '18446744073709551615', bytes: 'beef' },
    });
  });

  test('are distinguished by instance, and equal ones by section', async () => {
    const { devices } = await summaryOf(
      withDevices(
        device(1, 'serial', 0, 1n),
        device(2, 'serial', 1, 2n),
        device(3, 'serial', 0, 3n),
        device(4, 'serial', 1, 4n),
      ),
    );
    const values = Object.entries(devices).map(([key, state]) => [
      key,
      (state as { big: number }).big,
    ]);
    assert.deepEqual(values, [
      ['serial', 1],
      ['serial/1', 2],
      ['serial (section 3)', 3],
      ['serial/1 (section 4)', 4],
    ]);
    assert.equal(deviceKey({ name: 'serial', instanceId: 7 }), 'serial/7');
  });

  test('can have names with a meaning in JavaScript', async () => {
    const names = ['__proto__', 'constructor', 'toString'];
    const { devices } = await summaryOf(
      withDevices(...names.map((name, index) => device(index, name, 0, 1n))),
    );
    assert.deepEqual(Object.keys(devices), names);
    assert.equal(Object.getPrototypeOf(devices), Object.prototype);
    assert.equal(devices.big, undefined);
  });

  test('are raw bytes where no VM description covers them', async () => {
    const bytes = stream(
      header,
      configuration('none'),
      section('full', 5, ['timer', 0, 1], '0123456789'),
      end,
    );
    const { devices, vmDescription: described, warnings } = await summaryOf(bytes);
    assert.deepEqual(devices, { timer: { raw: '0123456789' } });
    assert.equal(described, false);
    assert.match(warnings.join(), /no VM description.* at byte \d+$/);
  });
});

describe('a summary', () => {
  test('has the fields of the configuration that the stream has', async () => {
    const uuid = '00112233445566778899aabbccddeeff';
    const full = stream(
      header,
      configuration(
        'virt-7.2',
        subsection('configuration/target-page-bits', 1, be32(12)),
        subsection('configuration/capabilities', 1, be32(1), counted('x-ignore-shared')),
        subsection('configuration/uuid', 1, uuid),
      ),
      end,
    );
    assert.deepEqual((await summaryOf(full)).configuration, {
      machine: 'virt-7.2',
      capabilities: ['x-ignore-shared'],
      targetPageBits: 12,
      uuid: '00112233-4455-6677-8899-aabbccddeeff',
    });
    const { configuration: bare, ram } = await summaryOf(workedExample());
    assert.deepEqual(bare, { machine: 'pc-i440fx-7.2', capabilities: [] });
    assert.deepEqual(Object.keys(ram?.blocks[0] ?? {}), ['name', 'usedLength', 'pages']);
  });

  test('has commands with their fields, integers beyond 2^53-1 as text', async () => {
    const advise = command(3, be64(2n ** 63n + 4096n), be64(4096));
    const { commands } = await summaryOf(
      stream(header, configuration('none'), command(1), advise, command(99, be16(7)), end),
    );
    assert.deepEqual(commands, [
      { offset: 17, bytes: 5, number: 1, name: 'OPEN_RETURN_PATH' },
      {
        offset: 22,
        bytes: 21,
        number: 3,
        name: 'POSTCOPY_ADVISE',
        pageSizes: '9223372036854779904',
        targetPageSize: 4096,
      },
      { offset: 43, bytes: 7, number: 99, name: 'UNKNOWN' },
    ]);
  });

  test('has null for missing RAM and for a missing configuration', async () => {
    const { ram, configuration: none, format } = await summaryOf(stream(header, end));
    assert.deepEqual([ram, none], [null, null]);
    assert.deepEqual(format, { version: 3, bytes: 9, trailingBytes: 0, container: null });
  });

  test('counts trailing bytes apart', async () => {
    const { format } = await summaryOf(stream(workedExample(), Buffer.alloc(100)));
    assert.deepEqual([format.bytes, format.trailingBytes], [4664, 100]);
  });

  test('of a truncated stream counts complete items', async () => {
    for (const [cut, whole] of [
      [4664, 4664],
      [4663, 4321],
      [4319, 4270],
      [4200, 96],
      [60, 26],
      [15, 0],
    ] as const) {
      const { format } = await summaryOf(workedExample().subarray(0, cut));
      assert.equal(format.bytes, whole, `cut at ${cut}`);
    }
  });

  test('has the given digests', async () => {
    const reader = new MigrationReader(chunksOf([workedExample()]));
    const summarizer = new StreamSummarizer();
    for await (const event of reader) summarizer.add(event);
    summarizer.warn('something else');
    const { ram, format, warnings } = summarizer.summary(reader.ram, 'gzip', ({ name }) =>
      name === 'pc.ram' ? '0123456789abcdef' : undefined,
    );
    assert.deepEqual(
      ram?.blocks.map(({ xxh64 }) => xxh64),
      ['0123456789abcdef', undefined],
    );
    assert.equal(format.container, 'gzip');
    assert.deepEqual(warnings, ['something else']);
  });

  test('counts a resent page in each round', async () => {
    const data = Buffer.alloc(4096, 1);
    const bytes = stream(
      header,
      configuration('pc-i440fx-7.2'),
      section('start', 2, ['ram', 0, 4], blockList(['pc.ram', 0x2000]), eos),
      piece('part', 2, page('pc.ram', 0, data), page(null, 0x1000, data), page(null, 0, data), eos),
      piece('end', 2, page(null, 0x1000, data), eos),
      end,
    );
    const { ram } = await summaryOf(bytes);
    assert.equal(ram?.rounds, 2);
    assert.deepEqual(
      ram.perRound.map(({ normal }) => normal),
      [2, 2],
    );
    assert.equal(ram.blocks[0]?.pages.normal, 4);
  });
});
