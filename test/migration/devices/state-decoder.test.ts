import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { bodySize } from '../../../lib/migration/devices/body-size.ts';
import { DescribedDevices } from '../../../lib/migration/devices/described-devices.ts';
import { findVmDescription } from '../../../lib/migration/devices/find-vm-description.ts';
import { decodeState, stateToJson } from '../../../lib/migration/devices/state-decoder.ts';
import { parseVmDescription } from '../../../lib/migration/devices/vm-description.ts';
import type {
  DeviceDescription,
  DeviceState,
  FieldDescription,
  StateDescription,
  StateValue,
} from '../../../lib/migration/format/device-types.ts';
import { MigrationStreamError } from '../../../lib/migration/format/stream-error.ts';
import { compareState } from '../../helpers/reading/state-oracle.ts';
import { corpus, corpusBytes, corpusFacts, corpusNames } from '../../helpers/streams/corpus.ts';
import { demoDevice, field, INTEGERS } from '../../helpers/streams/demo-device.ts';
import {
  type Bytes,
  be32,
  counted,
  footer,
  stream,
  subsection,
  workedExample,
} from '../../helpers/streams/stream-bytes.ts';

const SECTION = { sectionId: 5, name: 'demo', instanceId: 0 };

function decode(device: DeviceDescription, ...body: readonly Bytes[]): DeviceState {
  return decodeState(device, stream(...body), { bodyOffset: 0x1000, section: SECTION });
}

function refusal(device: DeviceDescription, ...body: readonly Bytes[]): MigrationStreamError {
  try {
    decode(device, ...body);
  } catch (error) {
    assert.ok(error instanceof MigrationStreamError, String(error));
    assert.deepEqual(error.section, SECTION);
    return error;
  }
  assert.fail('it was not refused');
}

/** The same with ordinary objects and arrays of numbers, to compare with. */
function plain(value: StateValue): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Uint8Array) return { bytes: [...value] };
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)]));
}

describe('the state of a device', () => {
  test('is decoded by the types of its fields', () => {
    assert.deepEqual(plain(decode(INTEGERS.device, INTEGERS.bytes)), INTEGERS.state);
  });

  const others: readonly (readonly [type: string, bytes: string, value: StateValue])[] = [
    ['bool', '02', true],
    ['uint8 equal', 'ff', 255],
    ['uint16 equal', 'ff fe', 65_534],
    ['uint32 equal', 'ff ff ff fe', 4_294_967_294],
    ['int32 equal', 'ff ff ff fe', -2],
    ['int32 le', '00 00 00 02', 2],
    ['int64 equal', 'ff ff ff ff ff ff ff ff', 18_446_744_073_709_551_615n],
    ['timer', '00 00 00 00 3b 9a ca 00', Uint8Array.of(0, 0, 0, 0, 0x3b, 0x9a, 0xca, 0)],
    ['CPU_Double_U', '3f f0 00 00 00 00 00 01', Uint8Array.of(0x3f, 0xf0, 0, 0, 0, 0, 0, 1)],
    ['float64', '00 00 00 00 00 00 00 07', Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 7)],
    ['uint64', '00 1f ff ff ff ff ff ff', 9_007_199_254_740_991],
    ['uint64', '00 20 00 00 00 00 00 00', 9_007_199_254_740_992n],
    ['uint64', '80 00 00 00 00 00 00 01', 9_223_372_036_854_775_809n],
    ['int64', '00 20 00 00 00 00 00 00', 9_007_199_254_740_992n],
    ['int64', 'ff e0 00 00 00 00 00 01', -9_007_199_254_740_991],
    ['int64', 'ff e0 00 00 00 00 00 00', -9_007_199_254_740_992n],
    ['int64', '80 00 00 00 00 00 00 00', -9_223_372_036_854_775_808n],
    ['buffer', '00 01 fe', Uint8Array.of(0, 1, 254)],
    ['unused_buffer', '00', Uint8Array.of(0)],
    ['bitmap', '00 00 00 00 00 00 00 01', Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 1)],
    ['qtailq', '01 82 00', Uint8Array.of(1, 130, 0)],
    ['msr', 'ff', Uint8Array.of(255)],
    ['nullptr', '30', null],
    ['uint64', '30', null],
  ];
  for (const [type, bytes, value] of others) {
    test(`decodes ${bytes} as ${type}`, () => {
      const body = stream(bytes);
      const device = demoDevice([field('f', type, body.length)]);
      assert.deepEqual(decode(device, body).f, value);
    });
  }

  test('has arrays where the description says so, and scalars where it does not', () => {
    const struct = { vmsd_name: 's', version: 1, fields: [field('x', 'uint8', 1)] };
    const device = demoDevice([
      field('one', 'uint16', 2),
      field('compressed', 'uint16', 2, { array_len: 3 }),
      field('single', 'uint8', 1, { array_len: 1 }),
      field('structs', 'struct', 1, { array_len: 2, struct }),
      field('listed', 'struct', 1, { index: 0, struct }),
      field('listed', 'struct', 1, { index: 1, struct }),
      field('short', 'uint8', 1, { index: 0 }),
      // QEMU 10 leaves out the last index.
      field('short', 'uint8', 1),
      field('config[0]', 'buffer', 2),
      field('nested', 'struct', 1, { struct }),
    ]);
    const body = '0001 0042 0043 0044 05 06 07 08 09 0a 0b 0c0d 0e';
    assert.deepEqual(plain(decode(device, body)), {
      one: 1,
      compressed: [0x42, 0x43, 0x44],
      single: [5],
      structs: [{ x: 6 }, { x: 7 }],
      listed: [{ x: 8 }, { x: 9 }],
      short: [10, 11],
      'config[0]': { bytes: [12, 13] },
      nested: { x: 14 },
    });
  });

  test('has null for pointers to nothing, in arrays as QEMU 10 describes them', () => {
    const struct = { vmsd_name: 'test/tst', version: 1, fields: [field('i', 'int32', 4)] };
    const device = demoDevice([
      field('ar', 'struct', 4, { array_len: 4, struct }),
      field('ar', 'nullptr', 1),
      field('ar', 'struct', 4, { array_len: 2, struct }),
      field('nulls', 'nullptr', 1, { array_len: 2 }),
    ]);
    const body = '00000000 30 00000002 00000003 30 30';
    assert.deepEqual(plain(decode(device, body)), {
      ar: [{ i: 0 }, null, { i: 2 }, { i: 3 }],
      nulls: [null, null],
    });
  });

  test('has subsections among the fields, also those of a structure in the middle', () => {
    const sub = (vmsd_name: string, type: string, size: number): StateDescription => ({
      vmsd_name,
      version: 2,
      fields: [field('v', type, size)],
    });
    const device = demoDevice(
      [
        field('inner', 'struct', 1 + 2 + 7 + 4 + 2, {
          struct: {
            vmsd_name: 'inner',
            version: 1,
            fields: [field('x', 'uint8', 1)],
            subsections: [sub('inner/s', 'uint16', 2)],
          },
        }),
        field('y', 'uint8', 1),
      ],
      [sub('demo/a', 'bool', 1), sub('demo/b', 'uint32', 4)],
    );
    const state = decode(
      device,
      '01',
      subsection('inner/s', 2, '0203'),
      '05',
      subsection('demo/a', 2, '01'),
      subsection('demo/b', 2, '00000005'),
    );
    assert.deepEqual(plain(state), {
      inner: { x: 1, 'inner/s': { v: 0x0203 } },
      y: 5,
      'demo/a': { v: true },
      'demo/b': { v: 5 },
    });
  });

  test('is that of the worked example', () => {
    const whole = workedExample();
    const found = findVmDescription(whole, 0);
    const device = found?.description.devices[0] as DeviceDescription;
    const body = whole.subarray(0x10c0, 0x10db);
    assert.equal(bodySize(device), body.length);
    const state = decodeState(device, body, { bodyOffset: 0x10c0, section: SECTION });
    assert.deepEqual(plain(state), { a: 0x12345678, arr: [1, 2, 3], 'demo/extra': { flag: true } });
  });

  test('has views of the body, not copies', () => {
    const body = Buffer.from([1, 2, 3, 4]);
    const state = decodeState(demoDevice([field('x', 'uint8', 1), field('b', 'buffer', 3)]), body, {
      bodyOffset: 0,
      section: SECTION,
    });
    const view = state.b as Uint8Array;
    assert.equal(Object.getPrototypeOf(view), Uint8Array.prototype);
    body[1] = 9;
    assert.deepEqual([...view], [9, 3, 4]);
  });

  test('keeps names that mean something in JavaScript', () => {
    const text = `{"page_size":4096,"devices":[{"name":"d","instance_id":0,"fields":[
      {"name":"__proto__","type":"struct","size":1,"struct":{"fields":[{"name":"polluted","type":"uint8","size":1}]}},
      {"name":"constructor","type":"uint8","size":1},
      {"name":"toString","type":"uint8","size":1,"array_len":2}]}]}`;
    const [device] = parseVmDescription(Buffer.from(text), 0).devices;
    const state = decode(device as DeviceDescription, '07 08 09 0a');
    assert.deepEqual(Object.keys(state), ['__proto__', 'constructor', 'toString']);
    assert.equal(
      JSON.stringify(stateToJson(state)),
      '{"__proto__":{"polluted":7},"constructor":8,"toString":[9,10]}',
    );
    assert.equal('polluted' in {}, false);
  });
});

describe('a body that its description does not fit', () => {
  const struct = { vmsd_name: 's', version: 1, fields: [field('x', 'uint32', 4)] };

  test('is refused at every other length, at the field where it is over', () => {
    const device = demoDevice(
      [
        field('a', 'uint32', 4),
        field('env.regs', 'uint64', 8, { array_len: 4 }),
        field('segs', 'struct', 4, { array_len: 2, struct }),
      ],
      [{ vmsd_name: 'demo/s', version: 1, fields: [field('z', 'buffer', 3)] }],
    );
    const body = stream(Buffer.alloc(44), subsection('demo/s', 1, '010203'));
    assert.equal(bodySize(device), body.length);
    decode(device, body);
    const ends: [number, string][] = [
      [4, 'a'],
      ...[0, 1, 2, 3].map((at): [number, string] => [12 + 8 * at, `env.regs[${at}]`]),
      [40, 'segs[0]'],
      [44, 'segs[1]'],
      [56, 'demo/s'],
      [59, 'demo/s.z'],
    ];
    for (let length = 0; length < body.length; length++) {
      const place = ends.findIndex(([end]) => length < end);
      const path = ends[place]?.[1];
      const error = refusal(device, body.subarray(0, length));
      assert.equal(error.fault, 'corrupt');
      assert.equal(error.reason.split(' ')[0], path);
      assert.equal(error.position, 0x1000 + (ends[place - 1]?.[0] ?? 0));
    }
    const error = refusal(device, body, '00');
    assert.equal(error.reason, 'the VM description accounts for 59 of 60 bytes');
    assert.equal(error.position, 0x1000 + 59);
  });

  test('is reported with the bytes needed and available', () => {
    const device = demoDevice([field('env.regs', 'uint64', 8, { array_len: 2 })]);
    assert.equal(
      refusal(device, Buffer.alloc(11)).reason,
      'env.regs[1] needs 8 bytes (uint64), but 3 are left',
    );
  });

  test('is refused where an array mixes pointers with nulls that are not described, as in QEMU 7.2', () => {
    const pointers = field('ar', 'struct', 4, { array_len: 4, struct });
    const device = demoDevice([pointers, field('b', 'uint8', 1)]);
    const error = refusal(device, '00000000 30 00000002 00000003 07');
    assert.match(error.reason, /^ar\[3\] needs 4 bytes \(struct\), but 2 are left$/);

    const nullFirst = demoDevice([field('ar', 'uint64', 1, { array_len: 3 })]);
    const second = refusal(nullFirst, '30 00000002 30');
    assert.equal(second.reason, 'ar[1] is described as a null pointer, but is not one');
    assert.equal(second.position, 0x1001);
  });

  test('is refused if a structure is larger or smaller than its contents', () => {
    const larger = demoDevice([field('x', 'uint8', 1), field('s', 'struct', 5, { struct })]);
    const error = refusal(larger, '000000000000');
    assert.equal(error.reason, 's has 5 bytes, but its fields end after 4');
    assert.equal(error.position, 0x1005);

    const smaller = demoDevice([field('s', 'struct', 3, { struct }), field('y', 'uint32', 4)]);
    const second = refusal(smaller, '00000000000000');
    assert.equal(second.reason, 's.x needs 4 bytes (uint32), but 3 are left');
  });

  const headers: readonly (readonly [what: string, bytes: Bytes, reason: RegExp])[] = [
    ['none', Buffer.alloc(13), /^demo\/s should begin here, but no subsection does$/],
    ['one of another name', subsection('demo/t', 3, '00'), /but another subsection does$/],
    ['one of a longer name', subsection('demo/ss', 3), /but another subsection does$/],
    [
      'one of another version',
      subsection('demo/s', 4, '00'),
      /has version 4, but is described in v/,
    ],
  ];
  for (const [what, bytes, reason] of headers) {
    test(`is refused where a subsection should be and there is ${what}`, () => {
      const device = demoDevice(
        [field('a', 'uint8', 1)],
        [{ vmsd_name: 'demo/s', version: 3, fields: [field('z', 'uint8', 1)] }],
      );
      const error = refusal(device, '00', bytes);
      assert.match(error.reason, reason);
      assert.equal(error.position, 0x1001);
    });
  }

  const contradictions: readonly (readonly [what: string, FieldDescription[], RegExp])[] = [
    [
      'integers of a wrong size',
      [field('i', 'uint32', 2)],
      /^i is uint32, but described as 2 bytes$/,
    ],
    [
      'a null pointer of two bytes',
      [field('p', 'nullptr', 2)],
      /^p is described as a null pointer/,
    ],
    ['a negative "less or equal"', [field('v', 'int32 le', 4)], /^v is -1, which is negative$/],
    [
      'an index out of turn',
      [field('i', 'uint8', 1, { index: 0 }), field('i', 'uint8', 1, { index: 2 })],
      /^i\[1\] is described as element 2$/,
    ],
    [
      'a name twice',
      [field('i', 'uint8', 1), field('j', 'uint8', 1), field('i', 'uint8', 1)],
      /^i is described twice$/,
    ],
  ];
  for (const [what, fields, reason] of contradictions) {
    test(`is refused for ${what}`, () => {
      assert.match(refusal(demoDevice(fields), 'ffffffff').reason, reason);
    });
  }

  test('is refused for elements without end that take no bytes', () => {
    const empty = field('e', 'buffer', 0, { array_len: 2 ** 50 });
    assert.match(
      refusal(demoDevice([empty])).reason,
      /^e\[1024\] is value 1025 of 0 bytes, which cannot/,
    );
    let many = empty;
    for (let level = 0; level < 20; level++) {
      many = field('s', 'struct', 0, { array_len: 1000, struct: { fields: [many] } });
    }
    assert.match(refusal(demoDevice([many]), '00').reason, /which cannot contain as many$/);
  });

  test('is refused for more values than fit into memory', () => {
    const device = demoDevice([field('e', 'uint8', 1, { array_len: 3_000_000 })]);
    const error = refusal(device, Buffer.alloc(3_000_000));
    assert.equal(error.fault, 'unsupported');
    assert.equal(error.reason, 'e[2097152] is beyond the 2097152 values that are decoded');
  });

  test('shows nothing that would change a terminal', () => {
    const error = refusal(demoDevice([field('\u001b[2J', 'uint8\n', 1)]));
    assert.match(error.reason, /^[\x20-\x7e]*$/);
  });
});

describe('a state as JSON', () => {
  test('has digits for what JSON has no type for', () => {
    const state: DeviceState = {
      n: 9_007_199_254_740_991,
      big: 18_446_744_073_709_551_615n,
      negative: -9_223_372_036_854_775_808n,
      bytes: Uint8Array.of(0, 0x0a, 0xff),
      none: null,
      yes: true,
      text: 'text',
      list: [1, [2n ** 60n], { x: Uint8Array.of() }],
    };
    assert.deepEqual(JSON.parse(JSON.stringify(stateToJson(state))), {
      n: 9_007_199_254_740_991,
      big: '18446744073709551615',
      negative: '-9223372036854775808',
      bytes: '000aff',
      none: null,
      yes: true,
      text: 'text',
      list: [1, ['1152921504606846976'], { x: '' }],
    });
  });

  test('has no bytes but those of a view', () => {
    const whole = Buffer.from('0102030405', 'hex');
    assert.deepEqual(Object.values(stateToJson({ b: whole.subarray(1, 3) }) as object), ['0203']);
  });
});

describe('the comparison with an oracle', () => {
  test('takes integers by their bits, and bytes with or without blanks', () => {
    const ours = {
      a: -1,
      b: 4_294_967_295,
      c: '18446744073709551615',
      d: '0aff',
      e: 258,
      f: [true],
    };
    const oracle = {
      a: '0xffffffff (-1)',
      b: '0xffffffff (-1)',
      c: 'ff ff ff ff ff ff ff ff',
      d: '0a ff',
      e: '0x0102',
      f: [true],
    };
    assert.deepEqual(compareState(ours, oracle), []);
  });

  test('finds every difference', () => {
    const ours = { a: 256, b: [1, 2], c: '0aff', d: 1, f: -129, g: '', h: { i: false } };
    const oracle = {
      a: '0x00',
      b: ['0x01'],
      c: '0a fe',
      e: '0x01',
      f: '0x7f',
      g: '0x00',
      h: { i: '0x00' },
    };
    assert.deepEqual(
      compareState(ours, oracle).map((difference) => difference.split(':')[0]),
      ['a', 'b[1]', 'c', 'd', 'f', 'g', 'h.i', 'e'],
    );
  });
});

/** The stream of a recording, or a file that has it in it. */
function fileOf(name: string): string | undefined {
  return [`${name}.mig.gz`, `${name}.file.gz`, `${name}.img.gz`].find((file) => corpus(file));
}

interface Decoded {
  devices: number;
  /** Whether the walk ended at the end mark. */
  ended: boolean;
  states: Map<string, unknown>;
}

/** Decodes all device sections of a recording that has its description. */
function decodeRecording(name: string, bytes: Buffer): Decoded | null {
  const found = findVmDescription(bytes, 0);
  if (found === null) return null;
  const { description, offset } = found;
  const [first] = description.devices;
  const { sections } = corpusFacts(name).analyze_migration;
  const facts = sections.find((section) => section.name === first?.name);
  assert.ok(facts !== undefined);
  const { section_id, instance_id, version_id } = facts;
  const ids = [be32(section_id), counted(facts.name), be32(instance_id), be32(version_id)];
  let at = bytes.lastIndexOf(stream('04', ...ids), offset);
  assert.ok(at >= 0);

  const devices = new DescribedDevices(description.devices);
  const states = new Map<string, unknown>();
  while (bytes[at] === 0x04 && at < offset) {
    const sectionId = bytes.readUInt32BE(at + 1);
    const nameEnd = at + 6 + (bytes[at + 5] as number);
    const section = { sectionId, name: bytes.toString('utf8', at + 6, nameEnd), instanceId: 0 };
    section.instanceId = bytes.readUInt32BE(nameEnd);
    const device = devices.take(section.name, section.instanceId);
    assert.ok(device !== undefined, section.name);
    const bodyOffset = nameEnd + 8;
    const bodyEnd = bodyOffset + bodySize(device);
    assert.deepEqual(bytes.subarray(bodyEnd, bodyEnd + 5), footer(sectionId));
    const state = decodeState(device, bytes.subarray(bodyOffset, bodyEnd), { bodyOffset, section });
    states.set(`${section.name} (${sectionId})`, JSON.parse(JSON.stringify(stateToJson(state))));
    at = bodyEnd + 5;
  }
  assert.deepEqual(devices.left(), []);
  return { devices: states.size, ended: bytes[at] === 0 && at + 1 === offset, states };
}

describe('the devices of recordings', () => {
  for (const name of corpusNames()) {
    const file = fileOf(name);
    if (file === undefined) continue;
    test(`are equal to the output of QEMU's analyser: ${name}`, (t) => {
      const decoded = decodeRecording(name, corpusBytes(file));
      if (decoded === null) return t.skip('it has no description');
      assert.ok(decoded.ended);
      assert.ok(decoded.devices >= 14);
      if (corpus(`${name}.state.json.gz`) === undefined) return;
      const text = corpusBytes(`${name}.state.json.gz`).toString();
      const oracle = JSON.parse(text) as Record<string, unknown>;
      const names = Object.keys(oracle).filter((key) => !key.startsWith('ram ('));
      assert.deepEqual([...decoded.states.keys()].sort(), names.sort());
      for (const key of names) {
        assert.deepEqual(compareState(decoded.states.get(key), oracle[key]), [], key);
      }
    });
  }
});
