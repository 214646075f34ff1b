import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  describeContainer,
  SNIFF_SIZE,
  sniffContainer,
} from '../../../lib/migration/containers/sniff.ts';
import { hex } from '../../helpers/bytes.ts';

const KNOWN: readonly [what: string, digits: string, expected: object][] = [
  ['a bare stream', '5145564d 00000003', { kind: 'qevm' }],
  [
    'a complete libvirt image',
    '4c696276697274 51656d7564 53617665',
    { kind: 'libvirt', complete: true },
  ],
  [
    'a libvirt image being written',
    '4c696276697274 51656d7564 50617274',
    { kind: 'libvirt', complete: false },
  ],
  ['a qcow2 image', '514649fb 00000003', { kind: 'qcow2' }],
  ['gzip', '1f8b 08', { kind: 'gzip' }],
  ['bzip2', '425a68 39', { kind: 'bzip2' }],
  ['xz', 'fd377a585a00', { kind: 'xz' }],
  ['lzop', '894c5a4f000d0a1a0a', { kind: 'lzop' }],
  ['zstd', '28b52ffd', { kind: 'zstd' }],
];

const OTHERS: readonly [digits: string, said: RegExp][] = [
  ['4c554b53 babe 0001', /^a LUKS volume: .*qemu-nbd -r --object secret.*driver=luks/],
  ['7f454c46 0201', /ELF/],
  ['4b44554d50202020', /kdump/],
  ['6d616b6564756d7066696c65', /makedumpfile/],
  ['51435052 00000001', /CPR/],
  ['4d564551 03000000', /swapped/],
  ['11223344 00000001', /multifd channel/],
  ['160301 0200', /TLS/],
];

/** The first bytes of a file, followed by others. */
function start(digits: string): Buffer {
  return Buffer.concat([hex(digits), Buffer.alloc(SNIFF_SIZE, 0xaa)]).subarray(0, SNIFF_SIZE);
}

describe('the first bytes of a file', () => {
  for (const [what, digits, expected] of KNOWN) {
    test(`identify ${what}`, () => {
      assert.deepEqual(sniffContainer(start(digits)), expected);
      assert.deepEqual(sniffContainer(Buffer.concat([start(digits), start(digits)])), expected);
    });
  }

  for (const [digits, said] of OTHERS) {
    test(`identify a file without a stream: ${said.source}`, () => {
      const container = sniffContainer(start(digits));
      assert.equal(container?.kind, 'other');
      assert.match(describeContainer(container, start(digits)), said);
    });
  }

  test('identify nothing if they are unknown, or too few', () => {
    assert.equal(sniffContainer(start('00')), null);
    assert.equal(sniffContainer(new Uint8Array(0)), null);
    for (const [, digits] of KNOWN) {
      const bytes = hex(digits.split(' ')[0] as string);
      assert.equal(sniffContainer(bytes.subarray(0, bytes.length - 1)), null);
    }
  });

  test('are shown where nothing is known of them', () => {
    const bytes = hex('00 01 02 03 04 05 06 07 08 09');
    assert.match(describeContainer(null, bytes), / 00 01 02 03 04 05 06 07$/);
  });
});
