import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  encodeMultifdHeader,
  encodeMultifdInitial,
} from '../../../lib/migration/writer/multifd-packets.ts';
import { recordings, unpack } from '../../fixtures/recording.ts';
import { corpus, corpusBytes, corpusFacts, corpusNames } from '../../helpers/streams/corpus.ts';
import { multifdInitial, multifdPacket } from '../../helpers/streams/stream-bytes.ts';

const PACKET = { number: 7, pageSize: 4096, block: 'pc.ram', normal: [0x1000, 0x5000] };

const METHODS = { 0: 'none', 2: 'zlib', 4: 'zstd' } as const;

/**
 * Assert that the packets of a recorded channel, encoded again from their fields, are its bytes. QEMU 7.2 leaves
 * bytes of earlier packets where no loader reads.
 */
function assertSamePackets(bytes: Buffer, hasLeftovers: boolean): void {
  const initial = encodeMultifdInitial(bytes[24] as number, uuidIn(bytes));
  assert.ok(initial.equals(bytes.subarray(0, 64)));
  let packets = 0;
  for (let at = 64; at < bytes.length; packets += 1) {
    const packet = Buffer.from(bytes.subarray(at, at + 1344));
    if (hasLeftovers) clearLeftovers(packet);
    const offsets = (from: number, count: number): number[] =>
      Array.from({ length: count }, (_, index) =>
        Number(packet.readBigUInt64BE(320 + 8 * (from + index))),
      );
    const flags = packet.readUInt32BE(8);
    const [normal, zero] = [packet.readUInt32BE(16), packet.readUInt32BE(32)];
    const payloadBytes = packet.readUInt32BE(20);
    const header = encodeMultifdHeader({
      number: Number(packet.readBigUInt64BE(24)),
      pageSize: 4096,
      block: packet.toString('utf8', 64, packet.indexOf(0, 64)),
      normal: offsets(0, normal),
      zero: offsets(normal, zero),
      payloadBytes,
      method: METHODS[(flags & 0xe) as keyof typeof METHODS],
      isSync: (flags & 1) === 1,
    });
    // QEMU writes no capacity in packets without pages.
    if (normal + zero === 0) header.writeUInt32BE(packet.readUInt32BE(12), 12);
    assert.ok(header.equals(packet), `packet ${packets}`);
    at += 1344 + payloadBytes;
  }
  assert.ok(packets > 2);
}

/** Clear the bytes of a packet that no loader reads. */
function clearLeftovers(packet: Buffer): void {
  const pages = packet.readUInt32BE(16) + packet.readUInt32BE(32);
  packet.fill(0, 320 + 8 * pages);
  if (pages === 0) packet.writeUInt32BE(0, 20);
  packet.fill(0, pages === 0 ? 64 : packet.indexOf(0, 64), 320);
}

function uuidIn(initial: Buffer): string {
  const digits = initial.toString('hex', 8, 24);
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

describe('a multifd channel', () => {
  test('begins with its number and the UUID of the guest', () => {
    assert.ok(encodeMultifdInitial(3).equals(multifdInitial(3)));
    const uuid = '00112233-4455-6677-8899-aabbccddeeff';
    const bytes = multifdInitial(0, '00112233445566778899aabbccddeeff');
    assert.ok(encodeMultifdInitial(0, uuid).equals(bytes));
  });

  test('has packets with the offsets of pages, and of pages of zeros after them', () => {
    const zero = [0x9000];
    const header = encodeMultifdHeader({ ...PACKET, zero, payloadBytes: 8192 });
    const fields = { number: 7, block: 'pc.ram', normal: PACKET.normal, zero };
    assert.ok(header.equals(multifdPacket({ ...fields, payloadSize: 8192 })));
  });

  test('has packets that say how their pages are compressed, and where to wait', () => {
    const zlib = { ...PACKET, payloadBytes: 99, method: 'zlib', isSync: true } as const;
    const expected = { number: 7, block: 'pc.ram', normal: PACKET.normal, payloadSize: 99 };
    assert.ok(encodeMultifdHeader(zlib).equals(multifdPacket({ ...expected, flags: 3 })));
    const sync = {
      number: 8,
      pageSize: 4096,
      block: '',
      normal: [],
      payloadBytes: 0,
      isSync: true,
    };
    assert.ok(encodeMultifdHeader(sync).equals(multifdPacket({ number: 8, flags: 1 })));
  });

  for (const { name, files } of recordings()) {
    for (const file of files) {
      if (file.kind !== 'channel') continue;
      test(`is that of QEMU, packet by packet: ${name}, ${file.file}`, () =>
        assertSamePackets(unpack(file), !name.startsWith('q10')));
    }
  }

  for (const name of corpusNames()) {
    for (const { file } of corpusFacts(name).files) {
      if (!/\.ch\d+\./.test(file) || corpus(file) === undefined) continue;
      test(`is that of QEMU, packet by packet: corpus ${name}, ${file}`, () =>
        assertSamePackets(corpusBytes(file), !name.startsWith('q10')));
    }
  }

  for (const [what, fields, says] of [
    ['too many pages', { normal: Array.from({ length: 129 }, () => 0) }, /129 pages/],
    ['an offset inside a page', { normal: [1] }, /1 is not the offset of a page/],
    ['a payload of another length', { payloadBytes: 4096 }, /4096 bytes for 2 pages/],
    ['no name of a block', { block: '' }, /block name of 0 bytes for 2 pages/],
    ['a long name', { block: 'x'.repeat(256) }, /block name of 256 bytes/],
  ] as const) {
    test(`refuses a packet with ${what}`, () => {
      assert.throws(() => encodeMultifdHeader({ ...PACKET, payloadBytes: 8192, ...fields }), {
        name: 'RangeError',
        message: says,
      });
    });
  }

  test('refuses a number that is not that of a channel', () => {
    assert.throws(() => encodeMultifdInitial(256), RangeError);
    assert.throws(() => encodeMultifdInitial(0, 'x'), RangeError);
  });
});
