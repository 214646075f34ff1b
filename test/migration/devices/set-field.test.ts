import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { setField } from '../../../lib/migration/devices/set-field.ts';
import { decodeState } from '../../../lib/migration/devices/state-decoder.ts';
import { encodeState } from '../../../lib/migration/devices/state-encoder.ts';
import { parseVmDescription } from '../../../lib/migration/devices/vm-description.ts';
import type { DeviceDescription } from '../../../lib/migration/format/device-types.ts';
import { stream, subsection } from '../../helpers/streams/stream-bytes.ts';

const inner = { fields: [{ name: 'x', type: 'uint8', size: 1 }] };
const json = {
  page_size: 4096,
  devices: [
    {
      name: 'demo',
      instance_id: 0,
      version: 1,
      fields: [
        { name: 'env.eip', type: 'uint64', size: 8 },
        { name: 'env', type: 'struct', size: 1, struct: inner },
        { name: 'regs', type: 'int16', size: 2, array_len: 3 },
        { name: 'list', type: 'struct', size: 1, index: 0, struct: inner },
        { name: 'list', type: 'struct', size: 1, index: 1, struct: inner },
        { name: 'ptrs', type: 'uint8', size: 1, array_len: 3 },
        { name: 'ptrs', type: 'nullptr', size: 1 },
        { name: 'ptrs', type: 'uint8', size: 1 },
        { name: 'config[0]', type: 'buffer', size: 2 },
        { name: 'on', type: 'bool', size: 1 },
        { name: 'p', type: 'nullptr', size: 1 },
      ],
      subsections: [
        { vmsd_name: 'demo/sub.a', version: 1, fields: [{ name: 'v', type: 'uint32', size: 4 }] },
      ],
    },
  ],
};
const device = parseVmDescription(Buffer.from(JSON.stringify(json)), 0)
  .devices[0] as DeviceDescription;
const SUB = subsection('demo/sub.a', 1, '00000009');
const BODY = '0000000000000001 02 000300040005 06 07 08 30 0a 0b0c 00 30';

/** Return the body after a change. */
function change(path: string, text: string): Buffer {
  const body = stream(BODY, SUB);
  const section = { sectionId: 5, name: 'demo', instanceId: 0 };
  const state = decodeState(device, body, { bodyOffset: 0, section });
  setField(device, state, path, text);
  assert.deepEqual(body, stream(BODY, SUB), 'the bytes that were decoded stay');
  return encodeState(device, state);
}

describe('a field of a state is changed', () => {
  const changes: readonly (readonly [path: string, text: string, body: string])[] = [
    ['env.eip', '258', '0000000000000102 02 000300040005 06 07 08 30 0a 0b0c 00 30'],
    ['env.eip', '0xfffffffffffffff0', 'fffffffffffffff0 02 000300040005 06 07 08 30 0a 0b0c 00 30'],
    ['env.x', '0xFF', '0000000000000001 ff 000300040005 06 07 08 30 0a 0b0c 00 30'],
    ['regs[1]', '-2', '0000000000000001 02 0003fffe0005 06 07 08 30 0a 0b0c 00 30'],
    ['regs[2]', '-0x10', '0000000000000001 02 00030004fff0 06 07 08 30 0a 0b0c 00 30'],
    ['list[1].x', '17', '0000000000000001 02 000300040005 06 11 08 30 0a 0b0c 00 30'],
    ['ptrs[2]', '0', '0000000000000001 02 000300040005 06 07 08 30 00 0b0c 00 30'],
    ['config[0]', 'FE01', '0000000000000001 02 000300040005 06 07 08 30 0a fe01 00 30'],
    ['on', 'true', '0000000000000001 02 000300040005 06 07 08 30 0a 0b0c 01 30'],
  ];
  for (const [path, text, body] of changes) {
    test(`${path} to ${text}`, () => {
      assert.deepEqual(change(path, text), stream(body, SUB));
    });
  }

  test('in a subsection whose name has a slash and a dot', () => {
    const sub = subsection('demo/sub.a', 1, '00000100');
    assert.deepEqual(change('demo/sub.a.v', '256'), stream(BODY, sub));
  });
});

describe('a change is refused', () => {
  const refusals: readonly (readonly [path: string, text: string, RegExp])[] = [
    ['nothing', '1', /^there is no field "nothing": the device has "env\.eip", "env", "regs", /],
    ['', '1', /^there is no field "": the device has /],
    ['env.y', '1', /^there is no field "env\.y": "env" has "x"$/],
    ['env.x.y', '1', /^there is no field "env\.x\.y": "env\.x" is a number$/],
    ['env.', '1', /^there is no field "env\.": "env" has "x"$/],
    ['environment', '1', /^there is no field "environment": the device has /],
    ['regs', '1', /^"regs" is an array of 3: select an element by \[N\]$/],
    ['regs[3]', '1', /^"regs" has 3 elements: \[3\] is beyond \[2\]$/],
    ['regs[-1]', '1', /^there is no field "regs\[-1\]": a dot is missing after 4 characters$/],
    ['regs[1]x', '1', /a dot is missing after 7 characters$/],
    ['regs[0][0]', '1', /a dot is missing after 7 characters$/],
    ['env.eip[0]', '1', /^"env\.eip" is a number, not an array$/],
    ['env[0]', '1', /^"env" is a structure, not an array$/],
    ['list.x', '1', /^there is no field "list\.x": "list" is an array of 2$/],
    ['list[0]', '1', /^"list\[0\]" is a structure: name a field of it$/],
    ['demo/sub.a', '1', /^"demo\/sub\.a" is a structure: name a field of it$/],
    ['p', '48', /^"p" is a null pointer, which cannot be set$/],
    ['ptrs[1]', '1', /^"ptrs\[1\]" is a null pointer, which cannot be set$/],
    ['env.eip', 'eax', /^"env\.eip" is uint64: "eax" is not an integer, decimal or with 0x$/],
    ['env.eip', '', /^"env\.eip" is uint64: "" is not an integer/],
    ['env.eip', '1.5', /is not an integer/],
    ['env.eip', ' 1', /is not an integer/],
    ['env.eip', 'true', /is not an integer/],
    ['on', '1', /^"on" is a bool: "1" is neither true nor false$/],
    ['config[0]', '0b', /^"config\[0\]" has 2 bytes, but the new value has 1$/],
    ['config[0]', '0b0', /"0b0" is not pairs of hexadecimal digits$/],
    ['config[0]', '0x0b0c', /^"config\[0\]" is bytes \(buffer\): "0x0b0c" is not pairs/],
  ];
  for (const [path, text, reason] of refusals) {
    test(`${path}=${text}`, () => {
      assert.throws(
        () => change(path, text),
        (error) => {
          assert.ok(error instanceof QemuFileError);
          assert.equal(error.code, 'EINVAL');
          assert.match(error.reason, reason);
          return true;
        },
      );
    });
  }

  const misfits: readonly (readonly [path: string, text: string, reason: string])[] = [
    ['env.x', '256', '"env.x" is uint8, 0 to 255: 256 does not fit'],
    ['env.x', '-1', '"env.x" is uint8, 0 to 255: -1 does not fit'],
    ['regs[0]', '0x8000', '"regs[0]" is int16, -32768 to 32767: 0x8000 does not fit'],
    [
      'env.eip',
      '18446744073709551616',
      '"env.eip" is uint64, 0 to 18446744073709551615: 18446744073709551616 does not fit',
    ],
  ];
  for (const [path, text, reason] of misfits) {
    test(`${path}=${text}, which does not fit`, () => {
      assert.throws(() => change(path, text), { code: 'ERANGE', reason });
    });
  }
});
