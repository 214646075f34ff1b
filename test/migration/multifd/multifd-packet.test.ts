import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { RamBlock } from '../../../lib/migration/format/events.ts';
import type { StreamFault } from '../../../lib/migration/format/stream-error.ts';
import {
  DEVICE_HEADER_BYTES,
  type MultifdTable,
  PacketFault,
  PagesPacket,
  packetKind,
  pagesHeaderSize,
  parseDevicePacket,
  parseInitialPacket,
} from '../../../lib/migration/multifd/multifd-packet.ts';
import { hex } from '../../helpers/bytes.ts';
import {
  type MultifdFields,
  multifdDeviceState,
  multifdInitial,
  multifdPacket,
} from '../../helpers/streams/stream-bytes.ts';

const PAGE = 4096;
/** Where the offsets begin. */
const OFFSETS = 320;

function block(name: string, pages: number): RamBlock {
  const none = { zero: 0, normal: 0, xbzrle: 0, compressed: 0, multifd: 0 };
  const usedLength = pages * PAGE;
  return { index: 0, name, usedLength, hostPageSize: null, address: null, pages: none };
}

const RAM = block('pc.ram', 8);
const TABLE: MultifdTable['blockTable'] = {
  pageSize: PAGE,
  find: (name) => [RAM, block('tiny', 0.5)].find((found) => found.name === name),
};

function parsed(fields: MultifdFields, table = TABLE): PagesPacket {
  const bytes = multifdPacket({ pageSize: table.pageSize, ...fields });
  const packet = new PagesPacket();
  packet.parse(bytes.subarray(0, pagesHeaderSize(table.pageSize)), table);
  return packet;
}

function assertPacketFault(
  call: () => unknown,
  fault: StreamFault,
  at: number,
  reason: RegExp,
): void {
  assert.throws(call, (error) => {
    assert.ok(error instanceof PacketFault);
    assert.match(error.message, reason);
    assert.deepEqual([error.fault, error.at], [fault, at]);
    return true;
  });
}

/** A packet's bytes with some overwritten. */
function patched(bytes: Buffer, at: number, digits: string): Buffer {
  hex(digits).copy(bytes, at);
  return bytes;
}

describe('parseInitialPacket', () => {
  it('returns number and UUID', () => {
    const uuid = '00112233 44556677 8899aabb ccddeeff';
    assert.deepEqual(parseInitialPacket(multifdInitial(7, uuid)), {
      id: 7,
      uuid: '00112233-4455-6677-8899-aabbccddeeff',
    });
  });

  it("refuses a start that is not a multifd channel's, and names a main channel", () => {
    const main = patched(multifdInitial(0), 0, '5145564d');
    assertPacketFault(
      () => parseInitialPacket(main),
      'not-a-stream',
      0,
      /^this is a main channel, not a multifd channel$/,
    );
    const other = patched(multifdInitial(0), 0, '44332211');
    assertPacketFault(() => parseInitialPacket(other), 'not-a-stream', 0, /0x44332211/);
  });

  it('refuses another version', () => {
    const bytes = patched(multifdInitial(0), 4, '00000002');
    assertPacketFault(
      () => parseInitialPacket(bytes),
      'unsupported',
      4,
      /^packet version 2, not 1$/,
    );
  });
});

describe('packetKind', () => {
  it('distinguishes pages and device state', () => {
    for (const flags of [0x00, 0x01, 0x02, 0x05, 0x3f]) {
      assert.equal(packetKind(multifdPacket({ flags }).subarray(0, 12)), 'pages');
    }
    const device = multifdDeviceState('vfio', 0, hex('00'));
    assert.equal(packetKind(device.subarray(0, 12)), 'device');
  });

  it('refuses another magic, version, unknown flags, and device state with other flags', () => {
    const kind = (at: number, digits: string) => () =>
      packetKind(patched(multifdPacket({}), at, digits));
    assertPacketFault(kind(0, '00000000'), 'corrupt', 0, /^it begins with 0x0, not 0x11223344/);
    assertPacketFault(kind(4, '00000000'), 'unsupported', 4, /^packet version 0, not 1$/);
    for (const flags of ['00000080', '80000000', '00000141']) {
      assertPacketFault(kind(8, flags), 'unsupported', 8, /^unknown flags in 0x/);
    }
    for (const flags of ['00000041', '00000042', '0000007f']) {
      assertPacketFault(kind(8, flags), 'corrupt', 8, /of a packet with device state/);
    }
  });
});

describe('PagesPacket', () => {
  it('returns the offsets of normal pages and then those of zero pages', () => {
    const payload = Buffer.alloc(2 * PAGE);
    const packet = parsed({ block: 'pc.ram', normal: [0x3000, 0], zero: [0x7000], payload });
    assert.deepEqual([...packet.offsets.subarray(0, 3)], [0x3000, 0, 0x7000]);
    assert.deepEqual([packet.normal, packet.zero, packet.payloadSize], [2, 1, 2 * PAGE]);
    assert.deepEqual([packet.block, packet.method, packet.isSync], [RAM, 'none', false]);
  });

  it('ignores bytes that QEMU 7.2 leaves in a packet without pages', () => {
    const left = { payloadSize: 99, block: Buffer.alloc(256, 0xff), normal: [5, 6, 7] };
    const packet = parsed({ flags: 1, ...left, normalPages: 0, number: 3 });
    assert.deepEqual([packet.normal, packet.zero, packet.payloadSize], [0, 0, 0]);
    assert.deepEqual([packet.block, packet.isSync], [null, true]);
  });

  it('takes a SYNC of QEMU 10, which has no room', () => {
    assert.equal(parsed({ flags: 1, room: 0 }).isSync, true);
  });

  it('takes a full packet, in pages of each size', () => {
    for (const [pageSize, most] of [
      [256, 2048],
      [1024, 512],
      [4096, 128],
      [65536, 8],
    ] as const) {
      assert.equal(pagesHeaderSize(pageSize), 320 + 8 * most);
      const ram = { ...RAM, usedLength: 524288 };
      const table = { ...TABLE, pageSize, find: () => ram };
      const zero = Array.from({ length: most }, (_, page) => page * pageSize);
      assert.equal(parsed({ block: 'pc.ram', zero }, table).zero, most);
      const beyond = { block: 'pc.ram', zero, room: most + 1 };
      assertPacketFault(() => parsed(beyond, table), 'corrupt', 12, /^its capacity is/);
    }
  });

  it('takes offsets beyond 4 GiB', () => {
    const far = 2 ** 40 + PAGE;
    const table = { ...TABLE, find: () => ({ ...RAM, usedLength: far + PAGE }) };
    assert.equal(parsed({ zero: [far] }, table).offsets[0], far);
  });

  it('knows zlib and zstd, and says the names of other methods', () => {
    const page = { block: 'pc.ram', normal: [0], payload: Buffer.alloc(100) };
    assert.equal(parsed({ ...page, flags: 0x02 }).method, 'zlib');
    assert.equal(parsed({ ...page, flags: 0x05 }).method, 'zstd');
    for (const [flags, name] of [
      [0x08, 'QPL'],
      [0x10, 'UADK'],
      [0x21, 'QATzip'],
    ] as const) {
      const reason = new RegExp(`^its pages are compressed with ${name}$`);
      assertPacketFault(() => parsed({ ...page, flags }), 'unsupported', 8, reason);
    }
    assertPacketFault(() => parsed({ ...page, flags: 0x06 }), 'unsupported', 8, /\(0x6\)$/);
  });

  const pages = { block: 'pc.ram', normal: [0, PAGE], payload: Buffer.alloc(2 * PAGE) };
  const huge = { ...pages, normal: [], normalPages: 0xffffffff };
  const FAULTS: readonly (readonly [string, MultifdFields, number, RegExp])[] = [
    ['room for too many', { room: 129 }, 12, /^its capacity is 129 pages, at most 128$/],
    ['more pages than room', { ...pages, room: 1 }, 16, /^it has 2 pages and a capacity of 1$/],
    ['pages beyond all bounds', huge, 16, /^it has 4294967295 pages/],
    [
      'more pages of zeros than room',
      { ...pages, zeroPages: 127 },
      32,
      /^it has 2 normal pages and 127 zero pages/,
    ],
    [
      'a payload too short',
      { ...pages, payloadSize: PAGE },
      20,
      /^its payload has 4096 bytes, its pages have 8192$/,
    ],
    [
      'a payload too long',
      { ...pages, payloadSize: 0xffffffff },
      20,
      /^its payload has 4294967295/,
    ],
    ['nothing compressed', { ...pages, flags: 2, payloadSize: 0 }, 20, /^its payload has 0 bytes/],
    ['too much compressed', { ...pages, flags: 4, payloadSize: 1048577 }, 20, /not 1 to 1048576$/],
    [
      'a name without an end',
      { ...pages, block: Buffer.alloc(256, 97) },
      64,
      /^a name without a NUL at its end$/,
    ],
    [
      'an unknown block',
      { ...pages, block: '\u001b[2J' },
      64,
      /^unknown RAM block "\\u\{1b\}\[2J"$/,
    ],
    ['no name', { ...pages, block: '' }, 64, /^unknown RAM block ""$/],
    ['the name of a property', { ...pages, block: '__proto__' }, 64, /"__proto__"$/],
    [
      'a page at the end',
      { ...pages, normal: [0, 8 * PAGE] },
      OFFSETS + 8,
      /^offset 0x8000 in RAM block/,
    ],
    [
      'a page of zeros at the end',
      { ...pages, zero: [8 * PAGE] },
      OFFSETS + 16,
      /^offset 0x8000 in RAM block/,
    ],
    ['a page out of line', { ...pages, normal: [0x10, 0] }, OFFSETS, /^offset 0x10 in RAM block/],
    ['a page in a block of half one', { zero: [0], block: 'tiny' }, OFFSETS, /of 0x800 bytes/],
  ];
  for (const [what, fields, at, reason] of FAULTS) {
    it(`refuses ${what}`, () => assertPacketFault(() => parsed(fields), 'corrupt', at, reason));
  }

  it('refuses an offset of 64 bits', () => {
    const bytes = patched(
      multifdPacket({ block: 'pc.ram', zero: [0] }),
      OFFSETS,
      'fffffffffffff000',
    );
    const parse = () => new PagesPacket().parse(bytes, TABLE);
    assertPacketFault(
      parse,
      'corrupt',
      OFFSETS,
      /^offset 0xfffffffffffff000 in RAM block "pc.ram"/,
    );
  });
});

describe('parseDevicePacket', () => {
  it('returns name, instance and size', () => {
    const bytes = multifdDeviceState('0000:00:03.0/vfio', 2, Buffer.alloc(5));
    assert.deepEqual(parseDevicePacket(bytes.subarray(0, DEVICE_HEADER_BYTES)), {
      name: '0000:00:03.0/vfio',
      instanceId: 2,
      payloadSize: 5,
    });
  });

  it('refuses no bytes, too many, and an unterminated name', () => {
    const empty = multifdDeviceState('vfio', 0, Buffer.alloc(0));
    assertPacketFault(
      () => parseDevicePacket(empty),
      'corrupt',
      272,
      /^the state of device "vfio" has 0 bytes/,
    );
    const large = patched(multifdDeviceState('vfio', 0, Buffer.alloc(1)), 272, '04000001');
    assertPacketFault(
      () => parseDevicePacket(large),
      'corrupt',
      272,
      /^the state of device "vfio" has 67108865 bytes/,
    );
    const endless = multifdDeviceState('v'.repeat(256), 0, Buffer.alloc(1));
    assertPacketFault(
      () => parseDevicePacket(endless),
      'corrupt',
      12,
      /^a name without a NUL at its end$/,
    );
  });
});
