import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { decodeState } from '../../../lib/migration/devices/state-decoder.ts';
import { encodeState } from '../../../lib/migration/devices/state-encoder.ts';
import type {
  DeviceDescription,
  DeviceState,
  FieldDescription,
  StateValue,
} from '../../../lib/migration/format/device-types.ts';
import { recordings, unpack } from '../../fixtures/recording.ts';
import { corpusBytes, corpusFacts, corpusNames } from '../../helpers/streams/corpus.ts';
import { demoDevice, field, INTEGERS } from '../../helpers/streams/demo-device.ts';
import { recordedDevices } from '../../helpers/streams/recorded-devices.ts';
import { type Bytes, stream, subsection } from '../../helpers/streams/stream-bytes.ts';

const SECTION = { sectionId: 5, name: 'demo', instanceId: 0 };

function refusal(device: DeviceDescription, state: unknown): QemuFileError {
  try {
    encodeState(device, state as DeviceState);
  } catch (error) {
    assert.ok(error instanceof QemuFileError, String(error));
    assert.equal(error.operation, 'encodeState');
    return error;
  }
  assert.fail('it was not refused');
}

const struct = { vmsd_name: 's', version: 1, fields: [field('x', 'uint8', 1)] };

describe('a state', () => {
  const vectors: readonly (readonly [
    what: string,
    device: DeviceDescription,
    state: DeviceState,
    body: Bytes,
  ])[] = [
    ['of all integer types', INTEGERS.device, INTEGERS.state, INTEGERS.bytes],
    [
      'with an array',
      demoDevice([field('u16_1', 'uint16', 2, { array_len: 3 })]),
      { u16_1: [0x42, 0x43, 0x44] },
      '00 42 00 43 00 44',
    ],
    [
      'with null pointers, as QEMU 10 describes them',
      demoDevice([
        field('ar', 'struct', 1, { array_len: 4, struct }),
        field('ar', 'nullptr', 1),
        field('ar', 'struct', 1, { array_len: 2, struct }),
        field('nulls', 'uint64', 1, { array_len: 2 }),
      ]),
      { ar: [{ x: 0 }, null, { x: 2 }, { x: 3 }], nulls: [null, null] },
      '00 30 02 03 30 30',
    ],
    [
      'with a list',
      demoDevice([field('i16', 'int16', 2), field('q', 'qtailq', 7), field('i32', 'int32', 4)]),
      { i16: -512, q: Buffer.from('01018201004100', 'hex'), i32: 70_000 },
      'fe 00 01 01 82 01 00 41 00 00 01 11 70',
    ],
    [
      'of a version that lacks fields',
      demoDevice([field('a', 'uint32', 4), field('c', 'uint32', 4), field('d', 'uint64', 8)]),
      { a: 10, c: 30, d: 40 },
      '0000000a 0000001e 0000000000000028',
    ],
    [
      'of a later version',
      demoDevice([
        field('a', 'uint32', 4),
        field('b', 'uint32', 4),
        field('c', 'uint32', 4),
        field('d', 'uint64', 8),
        field('e', 'uint32', 4),
        field('f', 'uint64', 8),
      ]),
      { a: 10, b: 20, c: 30, d: 40, e: 50, f: 60 },
      '0000000a 00000014 0000001e 0000000000000028 00000032 000000000000003c',
    ],
    [
      'with null among pointers to integers',
      demoDevice([
        field('ar', 'int32', 4, { array_len: 4 }),
        field('ar', 'nullptr', 1),
        field('ar', 'int32', 4, { array_len: 2 }),
      ]),
      { ar: [0, null, 2, 3] },
      '00000000 30 00000002 00000003',
    ],
    [
      'with a tree',
      demoDevice([field('id', 'int32', 4), field('domain', 'gtree', 63)]),
      {
        id: 6,
        domain: stream(
          '00000002 01 0000000000001000 0000000000001fff 000000000000a000 00000001',
          '01 0000000000004000 0000000000004fff 00000000000e0000 00000002 00',
        ),
      },
      `00000006 00000002
       01 0000000000001000 0000000000001fff 000000000000a000 00000001
       01 0000000000004000 0000000000004fff 00000000000e0000 00000002 00`,
    ],
    [
      'with a list of integers',
      demoDevice([field('id', 'uint32', 4), field('list', 'qlist', 21)]),
      { id: 1, list: stream('01 0000000a 01 00000b00 01 000c0000 01 0d000000 00') },
      '00000001 01 0000000a 01 00000b00 01 000c0000 01 0d000000 00',
    ],
    [
      'with a temporary structure',
      demoDevice([field('a', 'uint32', 4), field('d', 'uint64', 8), field('', 'tmp', 16)]),
      { a: 2, d: 1, '': stream('0000000000000002 0000000000000008') },
      '00000002 0000000000000001 0000000000000002 0000000000000008',
    ],
    [
      'with arrays that are listed one element at a time',
      demoDevice([
        field('single', 'uint8', 1, { array_len: 1 }),
        field('listed', 'struct', 1, { index: 0, struct }),
        field('listed', 'struct', 1, { index: 1, struct }),
        field('short', 'uint8', 1, { index: 0 }),
        field('short', 'uint8', 1),
        field('config[0]', 'buffer', 2),
      ]),
      {
        single: [5],
        listed: [{ x: 8 }, { x: 9 }],
        short: [10, 11],
        'config[0]': Uint8Array.of(12, 13),
      },
      '05 08 09 0a 0b 0c 0d',
    ],
    [
      'with subsections, also of a structure in the middle',
      demoDevice(
        [
          field('inner', 'struct', 1 + 2 + 7 + 4 + 1, {
            struct: {
              ...struct,
              subsections: [{ vmsd_name: 'inner/s', version: 2, fields: [field('v', 'int8', 1)] }],
            },
          }),
          field('y', 'uint8', 1),
        ],
        [{ vmsd_name: 'demo/a', version: 3, fields: [field('v', 'bool', 1)] }],
      ),
      { inner: { x: 1, 'inner/s': { v: -2 } }, y: 5, 'demo/a': { v: true } },
      stream('01', subsection('inner/s', 2, 'fe'), '05', subsection('demo/a', 3, '01')),
    ],
    [
      'with a structure without fields',
      demoDevice([field('s', 'struct', 3, { struct: {} })]),
      { s: Uint8Array.of(1, 2, 3) },
      '01 02 03',
    ],
    [
      'with names that mean something in JavaScript',
      demoDevice([field('constructor', 'uint8', 1), field('toString', 'uint8', 1)]),
      JSON.parse('{"constructor": 7, "toString": 8}') as DeviceState,
      '07 08',
    ],
  ];
  for (const [what, device, state, body] of vectors) {
    test(`${what} is encoded`, () => {
      assert.deepEqual(encodeState(device, state), stream(body));
    });
  }

  const limits: readonly (readonly [type: string, bytes: string, value: StateValue])[] = [
    ['uint8 equal', 'ff', 255],
    ['int8', '80', -128],
    ['uint16 equal', 'ffff', 65_535],
    ['uint32 equal', 'ffffffff', 4_294_967_295n],
    ['int32 equal', '80000000', -2_147_483_648],
    ['int32 le', '7fffffff', 2_147_483_647],
    ['int64 equal', 'ffffffffffffffff', 18_446_744_073_709_551_615n],
    ['uint64', '001fffffffffffff', 9_007_199_254_740_991],
    ['uint64', '0020000000000000', 9_007_199_254_740_992n],
    ['int64', '8000000000000000', -9_223_372_036_854_775_808n],
    ['int64', 'ffe0000000000001', -9_007_199_254_740_991],
    ['timer', '000000003b9aca00', Uint8Array.of(0, 0, 0, 0, 0x3b, 0x9a, 0xca, 0)],
  ];
  for (const [type, bytes, value] of limits) {
    test(`of the type ${type} is encoded as ${bytes}`, () => {
      const device = demoDevice([field('f', type, bytes.length / 2)]);
      assert.deepEqual(encodeState(device, { f: value }), stream(bytes));
    });
  }

  test('of megabytes is encoded', () => {
    const bytes = Buffer.alloc(3_000_000, 7);
    const device = demoDevice([field('a', 'uint8', 1), field('b', 'buffer', bytes.length)]);
    assert.ok(encodeState(device, { a: 1, b: bytes }).equals(stream('01', bytes)));
  });
});

describe('a state that its description does not fit', () => {
  const device = demoDevice(
    [
      field('a', 'uint32', 4),
      field('regs', 'int16', 2, { array_len: 2 }),
      field('s', 'struct', 1, { struct }),
      field('b', 'buffer', 2),
      field('on', 'bool', 1),
      field('p', 'nullptr', 1),
      field('le', 'int32 le', 4),
      field('structs', 'struct', 1, { array_len: 2, struct }),
    ],
    [{ vmsd_name: 'demo/t', version: 1, fields: [field('z', 'uint64', 8)] }],
  );
  const fit = (): Record<string, unknown> => ({
    a: 1,
    regs: [1, 2],
    s: { x: 1 },
    b: Uint8Array.of(1, 2),
    on: true,
    p: null,
    le: 0,
    structs: [{ x: 1 }, { x: 2 }],
    'demo/t': { z: 1 },
  });
  const faults: readonly (readonly [
    what: string,
    change: Record<string, unknown>,
    reason: string,
    code?: string,
  ])[] = [
    ['too great', { a: 2 ** 32 }, 'a is 4294967296, but uint32 is 0 to 4294967295', 'ERANGE'],
    ['negative', { a: -1 }, 'a is -1, but uint32 is 0 to 4294967295', 'ERANGE'],
    [
      'too great a bigint',
      { 'demo/t': { z: 2n ** 64n } },
      'demo/t.z is 18446744073709551616, but uint64 is 0 to 18446744073709551615',
      'ERANGE',
    ],
    [
      'too small in an array',
      { regs: [0, -32_769] },
      'regs[1] is -32769, but int16 is -32768 to 32767',
      'ERANGE',
    ],
    [
      'negative and "less or equal"',
      { le: -1 },
      'le is -1, but int32 le is 0 to 2147483647',
      'ERANGE',
    ],
    ['a fraction', { a: 1.5 }, 'a is the number 1.5, which is not exact: use an integer'],
    ['not a number', { a: Number.NaN }, 'a is the number NaN, which is not exact: use an integer'],
    [
      'a number that is not exact',
      { 'demo/t': { z: 2 ** 53 } },
      'demo/t.z is the number 9007199254740992, which is not exact: use a bigint',
    ],
    ['text for an integer', { a: '1' }, 'a is a string, not an integer'],
    ['a boolean for an integer', { a: true }, 'a is a boolean, not an integer'],
    ['an integer for a boolean', { on: 1 }, 'on is a number, not a boolean'],
    ['null for an integer', { a: null }, 'a is null, not an integer'],
    ['undefined for an integer', { a: undefined }, 'a is undefined, not an integer'],
    ['bytes for an integer', { a: Uint8Array.of(1) }, 'a is bytes, not an integer'],
    ['an integer for bytes', { b: 1 }, 'b is a number, not bytes'],
    ['numbers for bytes', { b: [1, 2] }, 'b is an array, not bytes'],
    ['other bytes', { b: Uint8Array.of(1) }, 'b has 1 bytes, but is described as 2'],
    ['more for a null pointer', { p: 0 }, 'p is a number, but described as a null pointer'],
    ['an integer for an array', { regs: 1 }, 'regs is a number, not an array'],
    ['a shorter array', { regs: [1] }, 'regs[1] is missing: the array has 1 elements'],
    [
      'a longer array',
      { regs: [1, 2, 3] },
      'regs[2] is not in the description: the array has 2 elements',
    ],
    ['an array for a structure', { s: [1] }, 's is an array, not a structure'],
    ['bytes for a structure', { s: Uint8Array.of(1) }, 's is bytes, not a structure'],
    ['null for a structure', { structs: [{ x: 1 }, null] }, 'structs[1] is null, not a structure'],
    ['a structure without a field', { s: {} }, 's.x is missing'],
    [
      'an unknown field in a structure',
      { structs: [{ x: 1 }, { x: 1, y: 2 }] },
      'structs[1].y is not in the description',
    ],
    ['an unknown field', { extra: 1 }, 'extra is not in the description'],
    ['an unknown subsection', { 'demo/u': { z: 1 } }, 'demo/u is not in the description'],
  ];
  for (const [what, change, reason, code = 'EINVAL'] of faults) {
    test(`is refused: ${what}`, () => {
      const error = refusal(device, { ...fit(), ...change });
      assert.equal(error.reason, reason);
      assert.equal(error.code, code);
    });
  }

  test('is refused without a field, or a subsection', () => {
    for (const name of Object.keys(fit())) {
      const state = fit();
      delete state[name];
      assert.equal(refusal(device, state).reason, `${name} is missing`);
    }
    assert.equal(refusal(device, null).reason, 'the state is null, not a structure');
  });

  test('is refused where it inherits a field', () => {
    const inherited = demoDevice([field('toString', 'uint8', 1)]);
    assert.equal(refusal(inherited, {}).reason, 'toString is missing');
  });

  const contradictions: readonly (readonly [what: string, FieldDescription[], unknown, string])[] =
    [
      [
        'integers of a wrong size',
        [field('i', 'uint32', 2)],
        { i: 1 },
        'i is uint32, but described as 2 bytes',
      ],
      [
        'a null pointer of two bytes',
        [field('i', 'nullptr', 2)],
        { i: null },
        'i is a null pointer, but described as 2 bytes',
      ],
      [
        'a structure that is larger than its fields',
        [field('i', 'struct', 2, { struct })],
        { i: { x: 1 } },
        'i has 1 bytes, but is described as 2',
      ],
      [
        'an index out of turn',
        [field('i', 'uint8', 1, { index: 0 }), field('i', 'uint8', 1, { index: 2 })],
        { i: [1, 2] },
        'i[1] is described as element 2',
      ],
      [
        'a name twice',
        [field('i', 'uint8', 1), field('j', 'uint8', 1), field('i', 'uint8', 1)],
        { i: 1, j: 1 },
        'i is described twice',
      ],
      [
        'a field without end',
        [field('i', 'buffer', 2 ** 50)],
        { i: Uint8Array.of() },
        `i has 0 bytes, but is described as ${2 ** 50}`,
      ],
    ];
  for (const [what, fields, state, reason] of contradictions) {
    test(`is refused for a description of ${what}`, () => {
      assert.equal(refusal(demoDevice(fields), state).reason, reason);
    });
  }

  test('is refused with an error that is fit for a terminal', () => {
    const error = refusal(demoDevice([field('\u001b[2J', 'uint8\n', 1)]), {});
    assert.match(error.reason, /^[\x20-\x7e]*$/);
  });
});

/** Decode and encode all device sections; return how many there are, null without a VM description. */
function encodeAgain(bytes: Buffer): number | null {
  const devices = recordedDevices(bytes);
  if (devices === null) return null;
  for (const { description, body } of devices) {
    const section = { ...SECTION, name: description.name };
    const state = decodeState(description, body, { bodyOffset: 0, section });
    assert.ok(encodeState(description, state).equals(body), description.name);
  }
  return devices.length;
}

describe('every device of a recording is encoded as it was sent', () => {
  const files = [
    ...recordings().flatMap(({ name, files }) =>
      files
        .filter(({ kind }) => kind === 'main')
        .map((file) => ({ name, read: () => unpack(file) })),
    ),
    ...corpusNames().flatMap((name) =>
      corpusFacts(name)
        .files.filter(({ holds }) => /stream|image|main/.test(holds))
        .map(({ file }) => ({ name: `corpus ${file}`, read: () => corpusBytes(file) })),
    ),
  ];
  for (const { name, read } of files) {
    test(name, (t) => {
      const devices = encodeAgain(read());
      if (devices === null) return t.skip('it has no VM description');
      assert.ok(devices >= 5, String(devices));
    });
  }
});
