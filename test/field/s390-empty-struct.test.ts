import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeState, MigrationReader, parseVmDescription } from '../../lib/migration/index.ts';

const css = { name: 'css', array_len: 3, type: 'struct', size: 1, struct: {} };
const count = { name: 'count', type: 'uint16', size: 2 };
const s390 = {
  name: 's390_css',
  instance_id: 0,
  vmsd_name: 's390_css',
  version: 1,
  fields: [css, count],
};
const plain = { name: 'plain', instance_id: 0, vmsd_name: 'plain', version: 1, fields: [count] };

function json(...devices: object[]): Buffer {
  return Buffer.from(JSON.stringify({ page_size: 4096, devices }));
}

test('a structure without fields is opaque bytes, as QEMU 7.2 describes s390_css', () => {
  const [device] = parseVmDescription(json(s390), 0).devices;
  assert.ok(device !== undefined);
  const section = { sectionId: 1, name: 's390_css', instanceId: 0 };
  const state = decodeState(device, Buffer.from('aabbcc0102', 'hex'), { bodyOffset: 0, section });
  const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);
  assert.deepEqual({ ...state }, { css: [bytes(0xaa), bytes(0xbb), bytes(0xcc)], count: 0x0102 });
});

/** A stream with the two devices and a description of them. */
function streamOf(odd: object): Buffer {
  const text = json(odd, plain);
  const size = Buffer.alloc(4);
  size.writeUInt32BE(text.length);
  const hex = (digits: string): Buffer => Buffer.from(digits, 'hex');
  const named = (id: string, name: string, body: string): Buffer =>
    Buffer.concat([
      hex(`04000000${id}`),
      Buffer.of(name.length),
      Buffer.from(name),
      hex(`0000000000000001${body}7e000000${id}`),
    ]);
  const head = hex('5145564d0000000307000000016d');
  const sections = [named('01', 's390_css', 'aabbcc0102'), named('02', 'plain', '0304')];
  return Buffer.concat([head, ...sections, hex('0006'), size, text]);
}

test('one odd entry of the VM description costs that entry, with a warning', async () => {
  const odd = { ...s390, fields: [{ ...css, size: 'large' }, count] };
  const source = (async function* () {
    yield streamOf(odd);
  })();
  const seen: unknown[] = [];
  for await (const event of new MigrationReader(source)) {
    if (event.type === 'device')
      seen.push([event.section.name, event.body.toString('hex'), event.state?.count]);
    if (event.type === 'warning') seen.push(event.message.replace(/.*devices/, 'devices'));
  }
  assert.deepEqual(seen, [
    ['s390_css', 'aabbcc0102', undefined],
    ['plain', '0304', 0x0304],
    'devices[0].fields[0].size is a string, not an integer; the device is not decoded',
  ]);
});
