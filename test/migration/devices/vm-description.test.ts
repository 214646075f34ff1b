import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { bodySize } from '../../../lib/migration/devices/body-size.ts';
import { DescribedDevices } from '../../../lib/migration/devices/described-devices.ts';
import {
  chooseDescription,
  findVmDescription,
  findVmDescriptions,
} from '../../../lib/migration/devices/find-vm-description.ts';
import { parseVmDescription } from '../../../lib/migration/devices/vm-description.ts';
import { tailMatches } from '../../../lib/migration/devices/walk-device-tail.ts';
import type {
  DeviceDescription,
  VmDescription,
} from '../../../lib/migration/format/device-types.ts';
import { MigrationStreamError } from '../../../lib/migration/format/stream-error.ts';
import { corpus, corpusBytes } from '../../helpers/streams/corpus.ts';
import {
  type Bytes,
  be32,
  end,
  footer,
  section,
  stream,
  vmDescription,
  workedExample,
  workedExampleDevice,
} from '../../helpers/streams/stream-bytes.ts';

/** Where the worked example's description is: type byte, JSON. */
const EXAMPLE = { type: 0x10e1, json: 0x10e6 };

function parse(json: object | string, position = 0): VmDescription {
  const text = typeof json === 'string' ? json : JSON.stringify(json);
  return parseVmDescription(Buffer.from(text), position);
}

/** A description with one device. */
function withDevice(device: object): object {
  return { page_size: 4096, devices: [{ name: 'd', instance_id: 0, fields: [], ...device }] };
}

/** A description whose one device has one field. */
function withField(field: object): object {
  return withDevice({ fields: [{ name: 'f', type: 'uint8', size: 1, ...field }] });
}

/** The device of a description that has one. */
function deviceOf(json: object): DeviceDescription {
  return parse(json).devices[0] as DeviceDescription;
}

function refusal(act: () => unknown): MigrationStreamError {
  try {
    act();
  } catch (error) {
    assert.ok(error instanceof MigrationStreamError, String(error));
    return error;
  }
  assert.fail('it was not refused');
}

/** A device description whose structures nest that deep. */
function nested(levels: number): object {
  let state: object = { fields: [] };
  for (let level = 0; level < levels; level++) {
    state = { fields: [{ name: 's', type: 'struct', size: 0, struct: state }] };
  }
  return withDevice(state);
}

describe('a VM description', () => {
  test('is read as it is', () => {
    const description = parseVmDescription(workedExample().subarray(EXAMPLE.json), EXAMPLE.json);
    assert.deepEqual(description, {
      page_size: 4096,
      devices: [workedExampleDevice],
    });
  });

  test('can describe the configuration', () => {
    const configuration = {
      vmsd_name: 'configuration',
      version: 1,
      fields: [{ name: 'len', type: 'uint32', size: 4 }],
    };
    const json = { configuration, page_size: 4096, devices: [] };
    assert.deepEqual(parse(json).configuration, configuration);
  });

  test('can repeat the keys of a list that is described inline', () => {
    const inline =
      '"vmsd_name": "e", "version": 1, "fields": [{"name":"u","type":"uint8","size":1}]';
    const field = `{"name": "q", "type": "qtailq", ${inline}, ${inline}, "size": 5}`;
    const device = `{"name": "d", "instance_id": 0, "vmsd_name": "d", "version": 1, "fields": [${field}]}`;
    const { devices } = parse(`{"page_size": 4096, "devices": [${device}]}`);
    assert.equal(bodySize(devices[0] as DeviceDescription), 5);
  });

  test('with names of JavaScript changes no prototype', () => {
    const evil =
      '{"__proto__": {"size": 7}, "name": "__proto__", "type": "constructor", "size": 1}';
    const text = `{"__proto__": {"polluted": 1}, "page_size": 4096, "devices": [{"name": "d", "instance_id": 0, "fields": [${evil}]}]}`;
    assert.equal(bodySize(parse(text).devices[0] as DeviceDescription), 1);
    assert.equal('polluted' in {}, false);
  });

  test('can nest as deep as 64 structures', () => {
    parse(nested(64));
    assert.match(refusal(() => parse(nested(65))).reason, /nests deeper than 64/);
  });

  const faults: readonly (readonly [what: string, json: object | string, reason: RegExp])[] = [
    [
      'text that is no JSON',
      '{"page_size": 4096, "devices": [}',
      /^the VM description is not JSON$/,
    ],
    ['nothing', '', /is not JSON/],
    ['an array', [], /^the VM description is an array, not an object$/],
    ['no page size', { devices: [] }, /: page_size is missing, not an integer$/],
    ['a small page size', { page_size: 128, devices: [] }, /: page_size is 128, not between 256/],
    ['a large page size', { page_size: 131072, devices: [] }, /: page_size is 131072, not between/],
    ['an odd page size', { page_size: 4097, devices: [] }, /: page_size is 4097, not a power/],
    ['a page size in words', { page_size: '4096', devices: [] }, /: page_size is a string, not an/],
    ['no devices', { page_size: 4096 }, /: devices is missing, not an array$/],
    ['devices by name', { page_size: 4096, devices: {} }, /: devices is an object, not an array$/],
    [
      'too many devices',
      { page_size: 4096, devices: new Array(65_537).fill(0) },
      /: devices has 65537 entries, more than 65536$/,
    ],
    [
      'a null device',
      { page_size: 4096, devices: [null] },
      /: devices\[0\] is null, not an object/,
    ],
    [
      'a configuration of text',
      { page_size: 4096, devices: [], configuration: 'x' },
      /: configuration is a string, not an object/,
    ],
    [
      'a configuration without fields',
      { page_size: 4096, devices: [], configuration: {} },
      /: configuration\.fields is missing/,
    ],
    ['no name', withDevice({ name: undefined }), /: devices\[0\]\.name is missing, not a string/],
    ['an empty name', withDevice({ name: '' }), /: devices\[0\]\.name has 0 bytes, not 1 to 255$/],
    ['a long name', withDevice({ name: 'ä'.repeat(128) }), /\.name has 256 bytes, not 1 to 255$/],
    [
      'no instance',
      withDevice({ instance_id: undefined }),
      /: devices\[0\]\.instance_id is missing/,
    ],
    ['a large instance', withDevice({ instance_id: 2 ** 32 }), /\.instance_id is 4294967296, not/],
    [
      'half a version',
      withDevice({ version: 1.5 }),
      /\.version is the number 1\.5, not an integer/,
    ],
    ['an unknown layout', withDevice({ vmsd_name: 1 }), /\.vmsd_name is the number 1, not a/],
    [
      'no fields',
      withDevice({ fields: undefined }),
      /: devices\[0\]\.fields is missing, not an array/,
    ],
    [
      'a size that is not that of the fields',
      withDevice({ size: 3 }),
      /\.size is 3, but the fields/,
    ],
    [
      'a field that is none',
      withDevice({ fields: [7] }),
      /\.fields\[0\] is the number 7, not an obj/,
    ],
    ['a field without a name', withField({ name: undefined }), /fields\[0\]\.name is missing/],
    [
      'a field with a long name',
      withField({ name: 'x'.repeat(1025) }),
      /more than 1024 characters$/,
    ],
    ['a field without a type', withField({ type: undefined }), /fields\[0\]\.type is missing/],
    ['a field without a size', withField({ size: undefined }), /fields\[0\]\.size is missing/],
    [
      'a negative size',
      withField({ size: -1 }),
      /: devices\[0\]\.fields\[0\]\.size is -1, not betwe/,
    ],
    [
      'a size beyond 2^53',
      withField({ size: 2 ** 53 }),
      /\.size is the number 9007199254740992, n/,
    ],
    [
      'an array of nothing',
      withField({ array_len: 0 }),
      /fields\[0\]\.array_len is 0, not between 1/,
    ],
    ['a negative index', withField({ index: -1 }), /fields\[0\]\.index is -1, not between 0/],
    [
      'an array of more bytes than can be',
      withField({ size: 2 ** 30, array_len: 2 ** 30 }),
      /: devices\[0\]\.fields\[0\] has more bytes than any device$/,
    ],
    [
      'fields of more bytes than can be',
      withDevice({
        fields: [
          { name: 'f', type: 'buffer', size: 2 ** 53 - 1 },
          { name: 'g', type: 'buffer', size: 2 ** 53 - 1 },
        ],
      }),
      /: devices\[0\] has more bytes than any device$/,
    ],
    [
      'a struct of nothing',
      withField({ type: 'struct' }),
      /fields\[0\]\.struct is missing, not an o/,
    ],
    [
      'a fault inside a struct',
      withField({ type: 'struct', struct: { fields: [{ name: 'x', type: 'uint8', size: '1' }] } }),
      /: devices\[0\]\.fields\[0\]\.struct\.fields\[0\]\.size is a string/,
    ],
    [
      'a fault inside what is described inline',
      withField({ type: 'tmp', fields: {} }),
      /: devices\[0\]\.fields\[0\]\.fields is an object/,
    ],
    [
      'a subsection without a name',
      withDevice({ subsections: [{ version: 1, fields: [] }] }),
      /: devices\[0\]\.subsections\[0\]\.vmsd_name is missing/,
    ],
    [
      'a subsection without a version',
      withDevice({ subsections: [{ vmsd_name: 'd/s', fields: [] }] }),
      /: devices\[0\]\.subsections\[0\]\.version is missing/,
    ],
    [
      'more elements in parts of an array than on the whole',
      withDevice({
        fields: [
          { name: 'p', array_len: 2, type: 'uint8', size: 1 },
          { name: 'p', array_len: 2, type: 'nullptr', size: 1 },
        ],
      }),
      /: devices\[0\]\.fields\[0\]\.array_len is 2, but 2 elements follow/,
    ],
  ];
  for (const [what, json, reason] of faults) {
    test(`is refused for ${what}, by its place`, () => {
      const error = refusal(() => parse(json, 1000));
      assert.equal(error.fault, 'corrupt');
      assert.match(error.reason, reason);
      assert.ok((error.position ?? 0) >= 1000);
    });
  }

  test('that is not JSON is refused at the first invalid byte', () => {
    const text = `${JSON.stringify(withDevice({})).slice(0, -1)},,"and more of it": "so that it is long"}`;
    const at = text.indexOf(',,') + 1;
    assert.equal(refusal(() => parse(text, 500)).position, 500 + at);
  });

  test('that is not UTF-8 is refused', () => {
    const bytes = Buffer.from('{"page_size": 4096, "devices": [], "x": "\xff"}', 'latin1');
    assert.match(refusal(() => parseVmDescription(bytes, 0)).reason, /is not JSON/);
  });

  test('with brackets without end is refused at once', () => {
    const error = refusal(() => parse('['.repeat(4_000_000), 10));
    assert.match(error.reason, /nests deeper than 256 levels/);
    assert.equal(error.position, 10 + 256);
    // Braces in strings do not count, and escaped quotation marks do not end a string.
    parse({ page_size: 4096, devices: [], x: '\\"['.repeat(1000) });
  });

  test('of more parts than fit into memory is refused before they are made', () => {
    const error = refusal(() => parse(`{"devices":[${'{},'.repeat(4_194_304)}{}]}`));
    assert.match(error.reason, /has more than 4194304 parts/);
  });

  test('of more bytes than are read is refused', () => {
    const error = refusal(() => parseVmDescription(new Uint8Array(67_108_865), 0));
    assert.match(error.reason, /has 67108865 bytes, more than the 67108864/);
  });
});

describe('the size of a body', () => {
  test('adds up elements, structures, and subsections with their headers', () => {
    const inner = { vmsd_name: 'i', version: 1, fields: [{ name: 'x', type: 'uint16', size: 2 }] };
    const device = deviceOf(
      withDevice({
        fields: [
          { name: 'a', type: 'uint32', size: 4 },
          { name: 'b', array_len: 3, type: 'struct', struct: inner, size: 2 },
        ],
        subsections: [
          {
            vmsd_name: 'd/é',
            version: 2,
            fields: [{ name: 'c', type: 'uint64', size: 8 }],
            subsections: [{ vmsd_name: 'd/é/s', version: 1, fields: [] }],
          },
        ],
      }),
    );
    assert.equal(bodySize(device), 4 + 3 * 2 + (2 + 4 + 4) + 8 + (2 + 6 + 4));
  });

  test('takes off what follows from the length of a first run of pointers', () => {
    const struct = { fields: [{ name: 'x', type: 'uint32', size: 4 }] };
    const pointer = { name: 'p', type: 'struct', struct, size: 4 };
    const null_ = { name: 'p', type: 'nullptr', size: 1 };
    // Two pointers, a null, three pointers: QEMU 10 describes the first two with the length of all six.
    const mixed = [{ ...pointer, array_len: 6 }, null_, { ...pointer, array_len: 3 }];
    assert.equal(bodySize(deviceOf(withDevice({ fields: mixed }))), 2 * 4 + 1 + 3 * 4);
    // Two nulls, a pointer, a null: a run of nulls in front has its own length.
    const nullsFirst = [{ ...null_, array_len: 2 }, pointer, null_];
    assert.equal(bodySize(deviceOf(withDevice({ fields: nullsFirst }))), 2 + 4 + 1);
  });
});

describe('the devices of a description', () => {
  test('are taken once each, alike ones in their order', () => {
    const device = (version: number, name = 'a', instance_id = 0): DeviceDescription => ({
      name,
      instance_id,
      version,
    });
    const devices = new DescribedDevices([device(1), device(2, 'b', -1), device(3), device(4)]);
    assert.equal(devices.take('a', 0)?.version, 1);
    assert.equal(devices.take('a', 1), undefined);
    assert.equal(devices.take('b', 0xffff_ffff)?.version, 2);
    assert.equal(devices.take('b', 0xffff_ffff), undefined);
    assert.deepEqual(devices.left(), [device(3), device(4)]);
  });
});

/** A description with devices that are opaque, by their sizes. */
function opaque(devices: Record<string, number>): object {
  return {
    page_size: 4096,
    devices: Object.entries(devices).map(([name, size]) => ({
      name,
      instance_id: 0,
      size,
      fields: [{ name: 'data', size, type: 'buffer' }],
    })),
  };
}

/** Sections of two devices with `bodies`, and the bytes after them. */
function tailOf(bodies: readonly [Bytes, Bytes], ...behind: readonly Bytes[]): Buffer {
  return stream(
    section('full', 5, ['one', 0, 1], bodies[0]),
    section('full', 9, ['two', 0, 1], bodies[1]),
    ...behind,
  );
}

describe('looking for the VM description', () => {
  test('finds that of the worked example from any place before it', () => {
    const whole = workedExample();
    const { json, type } = EXAMPLE;
    const description = parseVmDescription(whole.subarray(json), json);
    for (let from = 0; from <= type; from += from < 0x1090 ? 97 : 1) {
      const text = whole.subarray(json);
      const found = { offset: type, bytes: 343, description, text, warnings: [] };
      assert.deepEqual(findVmDescription(whole.subarray(from), from), found);
    }
    assert.equal(findVmDescription(whole.subarray(type + 1), type + 1), null);
  });

  test('finds none where it was cut off', () => {
    const whole = workedExample();
    for (let length = 0; length < whole.length; length++) {
      assert.equal(findVmDescription(whole.subarray(0, length), 0), null);
    }
  });

  test('finds one before other bytes, and one whose length has its type byte in it', () => {
    const json = JSON.stringify(opaque({ one: 3 }));
    const long = `{${' '.repeat(0x0606 - json.length)}${json.slice(1)}`;
    const bytes = stream('06', vmDescription(long), '06 00 00 00 10 7b 7d 00 06');
    assert.equal(findVmDescription(bytes, 70)?.offset, 71);
    assert.equal(findVmDescription(bytes, 70)?.bytes, 5 + 0x0606);
  });

  test('returns all candidates, the last first', () => {
    const bytes = stream(
      '00',
      vmDescription(opaque({ a: 1 })),
      vmDescription('{"page_size": 4096, "devices": ["not one"]}'),
      vmDescription(opaque({ bb: 1 })),
      end,
    );
    const found = [...findVmDescriptions(bytes, 1000)];
    const names = found.map(({ description }) => description.devices[0]?.name);
    assert.deepEqual(names, ['bb', 'a']);
    assert.equal(found[1]?.offset, 1001);
  });

  test('takes the last one by which the sections end at the end mark', () => {
    const right = vmDescription(opaque({ one: 300, two: 2 }));
    // A guest that can write to a device's buffer puts an end mark and a description there.
    const fake = stream(end, vmDescription(opaque({ one: 300, two: 1 })));
    const body = stream(fake, Buffer.alloc(300 - fake.length));
    const tail = tailOf([body, '0102'], end, right);
    const at = tail.length - right.length;
    for (const behind of ['', stream('ffff', fake)]) {
      const found = chooseDescription(stream(tail, behind), 7000, true);
      assert.equal(found?.offset, 7000 + at);
      assert.equal(found.bytes, right.length);
      assert.equal(found.description.devices[1]?.fields?.[0]?.size, 2);
    }
  });

  test('takes the one after the end mark where none fits, and without footers the last one', () => {
    const first = vmDescription(opaque({ one: 4, two: 2 }));
    const second = vmDescription(opaque({ one: 5, two: 2 }));
    const tail = tailOf(['010203', '0102'], end, first, second);
    const secondAt = tail.length - second.length;
    assert.equal(chooseDescription(tail, 0, true)?.offset, secondAt - first.length);
    assert.equal(chooseDescription(tail, 0, false)?.offset, secondAt);
    assert.equal(chooseDescription(tailOf(['00', '00'], end), 0, true), null);
  });

  test('takes time linear in the input, for any input', { timeout: 300_000 }, () => {
    const size = 8_000_000;
    const json = JSON.stringify(opaque({ one: 1 }));
    const begins = stream('06', be32(size / 2), '7b');
    const unbalanced = stream('06', be32(40), Buffer.from(`{"${'x'.repeat(37)}}`));
    for (const piece of [
      stream('06'),
      begins,
      unbalanced,
      vmDescription(json),
      stream('06060606067b'),
    ]) {
      const bytes = Buffer.alloc(size, piece);
      bytes[size - 1] = 0x7d;
      const found = [...findVmDescriptions(bytes, 0)];
      assert.ok(found.length <= 64);
      chooseDescription(bytes, 0, true);
    }
  });

  test('finds those of recordings', { skip: corpus('microvm.mig.gz') === undefined }, () => {
    const bytes = corpusBytes('microvm.mig.gz');
    const found = findVmDescription(bytes, 0);
    assert.equal(found?.bytes, 5 + 14_722);
    assert.equal(found.offset + found.bytes, bytes.length);
    assert.equal(found.description.devices.length, 14);
  });
});

describe('walking device sections by a description', () => {
  const description = parse(opaque({ one: 3, two: 2 }));
  const tail = tailOf(['010203', '0102'], end);
  const endMark = tail.length - 1;

  test('fits exactly', () => {
    assert.equal(tailMatches(tail, 0, endMark, description, true), true);
    assert.equal(tailMatches(tail, endMark, endMark, description, true), true);
  });

  test('fits sections without footers', () => {
    const bare = stream(
      tail.subarray(0, tail.indexOf(footer(5))),
      tail.subarray(tail.indexOf(footer(5)) + 5, tail.indexOf(footer(9))),
      end,
    );
    assert.equal(tailMatches(bare, 0, bare.length - 1, description, false), true);
    assert.equal(tailMatches(bare, 0, bare.length - 1, description, true), false);
    assert.equal(tailMatches(tail, 0, endMark, description, false), false);
  });

  test('does not fit anything else', () => {
    for (const devices of [
      { one: 3 },
      { one: 3, two: 1 },
      { one: 3, two: 3 },
      { one: 2, two: 2 },
    ]) {
      assert.equal(tailMatches(tail, 0, endMark, parse(opaque(devices)), true), false);
    }
    for (let at = -1; at < endMark; at++) {
      assert.equal(tailMatches(tail, 0, at, description, true), false, `end at ${at}`);
    }
    for (let at = 1; at < endMark; at++) {
      const first = at === tail.indexOf(footer(5)) + 5;
      assert.equal(tailMatches(tail, at, endMark, description, true), first, `start at ${at}`);
    }
  });

  test('does not fit if a byte of header or footer is another', () => {
    const versions = [tail.indexOf(footer(5)) - 3 - 4, tail.indexOf(footer(9)) - 2 - 4];
    for (let at = 0; at < tail.length; at++) {
      const inVersion = versions.some((from) => at >= from && at < from + 4);
      const inBody = versions.some((from, index) => at >= from + 4 && at < from + 7 - index);
      const changed = Buffer.from(tail);
      changed[at] = (changed[at] as number) ^ 0x01;
      assert.equal(
        tailMatches(changed, 0, endMark, description, true),
        inVersion || inBody,
        `at ${at}`,
      );
    }
  });

  test('gets over two devices of the same name and instance', () => {
    const alike = parse({
      page_size: 4096,
      devices: [1, 3].map((size) => ({
        name: 'isa-ide',
        instance_id: 0,
        fields: [{ name: 'data', type: 'buffer', size }],
      })),
    });
    const sections = stream(
      section('full', 0x19, ['isa-ide', 0, 3], '01'),
      section('full', 0x1a, ['isa-ide', 0, 3], '010203'),
      end,
    );
    assert.equal(tailMatches(sections, 0, sections.length - 1, alike, true), true);
  });
});
