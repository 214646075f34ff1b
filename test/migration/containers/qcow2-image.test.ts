import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import zlib, { deflateRawSync } from 'node:zlib';
import { Qcow2Image } from '../../../lib/migration/containers/qcow2-image.ts';
import type { Qcow2VmState } from '../../../lib/migration/containers/qcow2-vm-state.ts';
import { corpus, corpusBytes } from '../../helpers/streams/corpus.ts';
import {
  EXTENDED_L2,
  type Image,
  type ImageParts,
  qcow2,
  readerOver,
} from '../../helpers/streams/qcow2-bytes.ts';
import { be64, header, stream } from '../../helpers/streams/stream-bytes.ts';
import { pattern } from '../../helpers/transports/backend.ts';

const CLUSTER = 512;

/** The first cluster of a stream, so that the VM state is recognised. */
function firstCluster(...more: Uint8Array[]): Buffer {
  const start = stream(header, ...more);
  return stream(start, pattern(CLUSTER - start.length, 9));
}

/** A list of capabilities as it stands in a stream. */
const MAPPED_RAM = Buffer.from(
  '\x05\x1cconfiguration/capabilities\0\0\0\x01\0\0\0\x01\x0amapped-ram',
);

const CLUSTERS = [1, 2, 3, 4].map((seed) => pattern(CLUSTER, seed));
const [A, B, C] = CLUSTERS as [Buffer, Buffer, Buffer];
const ZEROS = Buffer.alloc(CLUSTER);

function open(image: Image): Promise<Qcow2Image> {
  return Qcow2Image.open(readerOver(image.bytes));
}

async function stateOf(image: Image, wanted?: string): Promise<Qcow2VmState> {
  const opened = await open(image);
  return opened.vmState(opened.choose(wanted));
}

async function all(state: Qcow2VmState): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of state) {
    assert.ok(piece.length > 0 && piece.length <= 262_144);
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

async function contents(parts: ImageParts): Promise<Buffer> {
  return all(await stateOf(qcow2(parts)));
}

/** An image with changed bytes. */
function patched(image: Image, at: number, bytes: Uint8Array): Image {
  const copy = Buffer.from(image.bytes);
  copy.set(bytes, at);
  return { ...image, bytes: copy };
}

const PLAIN = qcow2({ snapshots: [{ cells: [firstCluster(), A, B] }] });

describe('the snapshots of a qcow2 image', () => {
  test('are listed with all that is known of them', async () => {
    const image = qcow2({
      snapshots: [
        {
          id: '7',
          name: 'größe',
          cells: [firstCluster(), A],
          vmStateSize: 600,
          diskSize: 123_456,
          seconds: 1_600_000_000,
          nanoseconds: 123_456_789,
          vmClock: 2n ** 62n,
        },
        { id: '8', name: 'a disk' },
      ],
    });
    const { snapshots } = await open(image);
    assert.deepEqual(snapshots, [
      {
        id: '7',
        name: 'größe',
        date: new Date('2020-09-13T12:26:40.123Z'),
        vmStateSize: 600,
        diskSize: 123_456,
        vmClock: 4611686018427387904n,
      },
      {
        id: '8',
        name: 'a disk',
        date: new Date(0),
        vmStateSize: 0,
        diskSize: 40_000,
        vmClock: 0n,
      },
    ]);
  });

  for (const extra of [0, 8, 16, 24, 1024]) {
    test(`can have ${extra} bytes of extra data`, async () => {
      const snapshots = [
        { extra, name: 'one', cells: [firstCluster(), A] },
        { extra, name: 'another', cells: [firstCluster(), B] },
      ];
      const image = qcow2({ version: extra < 16 ? 2 : 3, snapshots });
      const { snapshots: found } = await open(image);
      assert.deepEqual(
        found.map(({ name, vmStateSize, diskSize }) => [name, vmStateSize, diskSize]),
        [
          ['one', 1024, 40_000],
          ['another', 1024, 40_000],
        ],
      );
      assert.deepEqual(await all(await stateOf(image, 'another')), stream(firstCluster(), B));
    });
  }

  test('need not be there', async () => {
    const image = await open(qcow2());
    assert.deepEqual(image.snapshots, []);
    assert.throws(() => image.choose(), { fault: 'not-a-stream', message: /no snapshot/ });
  });

  test('are chosen by name, then by id, and else the last with VM state', async () => {
    const image = await open(
      qcow2({
        snapshots: [
          { id: '1', name: '2', cells: [firstCluster()] },
          { id: '2', name: 'b', cells: [firstCluster()] },
          { id: '3', name: 'c' },
        ],
      }),
    );
    assert.equal(image.choose().id, '2');
    assert.equal(image.choose('b').id, '2');
    assert.equal(image.choose('2').id, '1');
    assert.equal(image.choose('1').id, '1');
    const none = { fault: 'not-a-stream', message: /no snapshot "x".*"2" \(id 1\), "b" \(id 2\)/ };
    assert.throws(() => image.choose('x'), none);
    assert.throws(() => image.choose('c'), { fault: 'not-a-stream', message: /has no VM state/ });
  });

  test('are quoted fit for a terminal', async () => {
    const image = await open(qcow2({ snapshots: [{ name: '\x1b[2J', cells: [firstCluster()] }] }));
    assert.throws(() => image.choose('\x07'), { message: /"\\u\{7\}".*"\\u\{1b\}\[2J"/ });
  });
});

describe('the VM state of a snapshot', () => {
  test('is read through its own tables, to its last byte', async () => {
    const cells = [firstCluster(), A, B, C];
    const parts = { snapshots: [{ cells, vmStateSize: 3 * CLUSTER + 17 }] };
    const expected = stream(firstCluster(), A, B, C.subarray(0, 17));
    assert.deepEqual(await contents(parts), expected);
  });

  test('is read from any offset', async () => {
    const state = await stateOf(PLAIN);
    const expected = stream(firstCluster(), A, B);
    for (let from = 0; from <= expected.length; from += 7) {
      for (const size of [1, 500, 512, 513, 2000]) {
        const target = Buffer.alloc(size);
        const length = await state.read(target, from);
        assert.deepEqual(target.subarray(0, length), expected.subarray(from, from + size));
      }
    }
    assert.equal(await state.read(Buffer.alloc(1), 5000), 0);
  });

  for (const diskSize of [0, 1, 32_767, 32_768, 32_769, 100_000]) {
    test(`begins after a disk of ${diskSize} bytes`, async () => {
      const image = qcow2({
        virtualSize: 5,
        snapshots: [{ diskSize, cells: [firstCluster(), A] }],
      });
      assert.equal(image.tables[0]?.firstEntry, Math.ceil(diskSize / 32_768));
      assert.deepEqual(await all(await stateOf(image)), stream(firstCluster(), A));
    });
  }

  test('can need several L2 tables, and have clusters in any order', async () => {
    const cells = [firstCluster(), ...Array.from({ length: 200 }, (_, i) => pattern(CLUSTER, i))];
    const image = qcow2({ snapshots: [{ cells }] });
    assert.equal(image.tables[0]?.l2At.length, 4);
    const at = image.tables[0]?.l2At[1] as number;
    const swapped = patched(image, at, image.bytes.subarray(at + 8, at + 16));
    const both = patched(swapped, at + 8, image.bytes.subarray(at, at + 8));
    [cells[64], cells[65]] = [cells[65] as Buffer, cells[64] as Buffer];
    assert.deepEqual(await all(await stateOf(both)), Buffer.concat(cells));
  });

  test('costs few reads where its clusters follow each other', async () => {
    const cells = [firstCluster(), ...Array.from({ length: 60 }, () => A)];
    const { bytes } = qcow2({ snapshots: [{ cells }] });
    let calls = 0;
    const image = await Qcow2Image.open((target, offset) => {
      calls += 1;
      return readerOver(bytes, 1e6)(target, offset);
    });
    const state = await image.vmState(image.choose());
    calls = 0;
    await all(state);
    assert.equal(calls, 1);
  });

  test('can have clusters of zeros', async () => {
    const parts = { snapshots: [{ cells: [firstCluster(), 'zero', A, 'zero'] as const }] };
    assert.deepEqual(await contents(parts), stream(firstCluster(), ZEROS, A, ZEROS));
  });

  for (const version of [2, 3]) {
    test(`can have compressed clusters, in version ${version}`, async () => {
      const packed = [firstCluster(), Buffer.alloc(CLUSTER, 5), A].map((bytes) => ({
        packed: deflateRawSync(bytes),
      }));
      const parts = { version, snapshots: [{ cells: [...packed, B] }] };
      const expected = stream(firstCluster(), Buffer.alloc(CLUSTER, 5), A, B);
      assert.deepEqual(await contents(parts), expected);
    });
  }

  test('can have a compressed cluster whose last sector is not complete in the file', async () => {
    const packed = deflateRawSync(A);
    const image = qcow2({ snapshots: [{ cells: [firstCluster(), { packed }] }] });
    const at = image.bytes.indexOf(packed);
    // The tables are after it: only the cluster is cut off by the end of the file.
    const cut = image.bytes.subarray(0, at + packed.length);
    const reader = readerOver(image.bytes);
    const opened = await Qcow2Image.open(async (target, offset) =>
      offset >= at && offset <= at + packed.length
        ? readerOver(cut)(target, offset)
        : reader(target, offset),
    );
    const state = await opened.vmState(opened.choose());
    assert.deepEqual(await all(state), stream(firstCluster(), A));
  });

  test('can have clusters compressed with zstd, where Node.js supports it', async () => {
    const { zstdCompressSync } = zlib as { zstdCompressSync?: (bytes: Uint8Array) => Buffer };
    const cells = [firstCluster(), { packed: zstdCompressSync?.(B) ?? Buffer.alloc(9) }];
    const state = contents({ features: 8, compression: 1, snapshots: [{ cells }] });
    if (zstdCompressSync !== undefined) assert.deepEqual(await state, stream(firstCluster(), B));
    else await assert.rejects(state, { fault: 'unsupported', message: /zstd/ });
  });

  for (const [what, packed] of [
    ['damaged', Buffer.alloc(100, 0xff)],
    ['too short', deflateRawSync(A.subarray(1))],
    ['too long', deflateRawSync(stream(A, A))],
  ] as const) {
    test(`is corrupt where a compressed cluster is ${what}`, async () => {
      const state = stateOf(qcow2({ snapshots: [{ cells: [firstCluster(), { packed }] }] }));
      await assert.rejects(state, { fault: 'corrupt', message: /compressed cluster/ });
    });
  }

  test('has no holes: they are damage', async () => {
    const state = stateOf(qcow2({ snapshots: [{ cells: [firstCluster(), 'hole', A] }] }));
    await assert.rejects(async () => all(await state), {
      fault: 'corrupt',
      message: /hole/,
      position: CLUSTER,
    });
  });

  test('of a stream with mapped-ram has holes, which are zeros', async () => {
    const start = firstCluster(MAPPED_RAM);
    const holes = Array.from({ length: 100 }, () => 'hole' as const);
    const parts = { snapshots: [{ cells: ['hole', start, ...holes, A] as const }] };
    // A hole at the start is allowed; the capability is then found after it.
    const expected = stream(ZEROS, start, Buffer.alloc(100 * CLUSTER), A);
    assert.deepEqual(await contents(parts), expected);
  });

  test('of a stream with mapped-ram continues after its size, up to the first hole', async () => {
    const start = firstCluster(MAPPED_RAM);
    const cells = [start, 'hole', A, B, 'zero', C, 'hole', A] as const;
    const parts = { snapshots: [{ cells, vmStateSize: 2 * CLUSTER + 100 }] };
    assert.deepEqual(await contents(parts), stream(start, ZEROS, A, B, ZEROS, C));
    const plain = { snapshots: [{ cells: [firstCluster(), A, B], vmStateSize: CLUSTER + 100 }] };
    assert.equal((await contents(plain)).length, CLUSTER + 100);
  });

  test('can have subclusters, each allocated or not', async () => {
    const size = 2 ** 14;
    const whole = stream(header, MAPPED_RAM, pattern(size)).subarray(0, size);
    const parts = { clusterBits: 14, features: EXTENDED_L2 };
    const bytes = pattern(size, 3);
    const cells = [whole, { bytes, there: 0xf000_00f5, zeros: 0x0000_ff0a }, 'zero'] as const;
    const expected = Buffer.from(bytes);
    for (let i = 0; i < 32; i++) {
      if (((0xf000_00f5 >>> i) & 1) === 0) expected.fill(0, i * 512, (i + 1) * 512);
    }
    const state = await contents({ ...parts, snapshots: [{ cells }] });
    assert.deepEqual(state, stream(whole, expected, Buffer.alloc(size)));

    const full = { bytes, there: 0xffff_ffff, zeros: 0 };
    const packed = { packed: deflateRawSync(pattern(size, 4)) };
    const noHoles = [stream(header, pattern(size)).subarray(0, size), full, packed] as const;
    assert.deepEqual(
      await contents({ ...parts, snapshots: [{ cells: noHoles }] }),
      stream(noHoles[0], bytes, pattern(size, 4)),
    );
    const both = { bytes, there: 1, zeros: 1 };
    await assert.rejects(contents({ ...parts, snapshots: [{ cells: [whole, both] }] }), {
      fault: 'corrupt',
      message: /both data and zeros/,
    });
  });

  test('is that of the recording it was saved with', async (t) => {
    if (corpus('savevm.qcow2.gz') === undefined) return t.skip('no corpus');
    const image = await Qcow2Image.open(readerOver(corpusBytes('savevm.qcow2.gz'), 1e6));
    const snapshot = image.choose();
    assert.deepEqual([snapshot.name, snapshot.id], ['corpus', '1']);
    const state = await all(await image.vmState(snapshot));
    assert.ok(state.equals(corpusBytes('savevm.mig.gz')));
  });
});

describe('a qcow2 image that cannot be read', () => {
  const refused: readonly [what: string, image: Image, fault: string, said: RegExp][] = [
    ['is too short', { ...PLAIN, bytes: PLAIN.bytes.subarray(0, 71) }, 'truncated', /71 bytes/],
    ['is of another version', qcow2({ version: 1 }), 'unsupported', /version 1/],
    ['is of a later version', qcow2({ version: 4 }), 'unsupported', /version 4/],
    ['has tiny clusters', patched(PLAIN, 23, Uint8Array.of(8)), 'corrupt', /2\^8/],
    ['has huge clusters', patched(PLAIN, 20, Uint8Array.of(1)), 'corrupt', /2\^\d+ bytes/],
    ['is encrypted', qcow2({ encryption: 2 }), 'unsupported', /encrypted/],
    ['keeps its data elsewhere', qcow2({ features: 4 }), 'unsupported', /external data file/],
    [
      'has an unknown feature',
      qcow2({ features: 0x20 }),
      'unsupported',
      /unknown incompatible features/,
    ],
    [
      'has a far unknown feature',
      patched(PLAIN, 72, Uint8Array.of(1)),
      'unsupported',
      /unknown incompatible features/,
    ],
    [
      'compresses strangely',
      qcow2({ features: 8, compression: 2 }),
      'unsupported',
      /compression type 2/,
    ],
    [
      'has subclusters in tiny clusters',
      qcow2({ features: EXTENDED_L2 }),
      'corrupt',
      /subclusters/,
    ],
    ['has too many snapshots', patched(PLAIN, 60, Uint8Array.of(0, 1, 0, 1)), 'corrupt', /65537/],
    ['has its list at an odd place', patched(PLAIN, 71, Uint8Array.of(1)), 'corrupt', /list/],
    ['has its list nowhere', patched(PLAIN, 64, be64(2n ** 63n)), 'corrupt', /offset/],
    ['has its list behind its end', patched(PLAIN, 64, be64(1e9)), 'truncated', /list/],
    ['says more snapshots than it has', patched(PLAIN, 62, Uint8Array.of(1)), 'truncated', /list/],
    [
      'has endless extra data',
      patched(PLAIN, PLAIN.listAt + 36, Uint8Array.of(0x7f)),
      'corrupt',
      /extra data/,
    ],
    [
      'has a state of impossible size',
      qcow2({ snapshots: [{ vmStateSize: 2n ** 60n }] }),
      'corrupt',
      /size/,
    ],
  ];
  for (const [what, image, fault, said] of refused) {
    test(`for it ${what}`, async () => {
      await assert.rejects(open(image), { fault, message: said });
    });
  }

  test('ends in its list of snapshots at any byte', async () => {
    const end = PLAIN.listAt + 40 + 24 + '1snapshot 1'.length;
    for (let length = PLAIN.listAt; length < end; length++) {
      const cut = open({ ...PLAIN, bytes: PLAIN.bytes.subarray(0, length) });
      await assert.rejects(cut, { fault: 'truncated' });
    }
    await open({ ...PLAIN, bytes: PLAIN.bytes.subarray(0, end) });
  });

  const { l1At, l2At, firstEntry } = PLAIN.tables[0] as Image['tables'][number];
  const l1Entry = l1At + firstEntry * 8;
  const l2 = l2At[0] as number;
  const damaged: readonly [what: string, image: Image, fault: string, said: RegExp][] = [
    [
      'has more VM state than its table holds',
      qcow2({ snapshots: [{ cells: [firstCluster()], vmStateSize: 2 ** 40 }] }),
      'corrupt',
      /no room/,
    ],
    [
      'had a disk larger than its table',
      qcow2({ snapshots: [{ cells: [firstCluster()], diskSize: 2n ** 52n }] }),
      'corrupt',
      /no room/,
    ],
    [
      'has an endless L1 table',
      patched(PLAIN, PLAIN.listAt + 8, Uint8Array.of(0xff)),
      'corrupt',
      /out of bounds/,
    ],
    [
      'has an L1 table at an odd place',
      patched(PLAIN, PLAIN.listAt, be64(l1At + 8)),
      'corrupt',
      /out of bounds/,
    ],
    [
      'has an L1 table behind its end',
      patched(PLAIN, PLAIN.listAt, be64(2 ** 30)),
      'truncated',
      /L1 table/,
    ],
    ['has no L2 table', patched(PLAIN, l1Entry, be64(0)), 'corrupt', /hole/],
    [
      'has an L2 table behind its end',
      patched(PLAIN, l1Entry, be64(2 ** 30)),
      'truncated',
      /L2 table/,
    ],
    [
      'has an L2 table beyond all files',
      patched(PLAIN, l1Entry, be64(2n ** 55n)),
      'corrupt',
      /L2 table at/,
    ],
    ['has a cluster behind its end', patched(PLAIN, l2, be64(2 ** 30)), 'truncated', /VM state/],
    [
      'has a cluster beyond all files',
      patched(PLAIN, l2 + 8, be64(2n ** 55n)),
      'corrupt',
      /cluster at/,
    ],
    [
      'has a compressed cluster beyond all files',
      patched(PLAIN, l2 + 8, be64(2n ** 62n + 2n ** 60n)),
      'corrupt',
      /./,
    ],
  ];
  for (const [what, image, fault, said] of damaged) {
    test(`for it ${what}`, async () => {
      await assert.rejects(async () => all(await stateOf(image)), { fault, message: said });
    });
  }

  test('can have overlapping tables: the result is wrong, but reading ends', async () => {
    const loop = patched(PLAIN, l1Entry, be64(l1At));
    await assert.rejects(async () => all(await stateOf(loop)));
    const self = patched(PLAIN, l2 + 8, be64(BigInt(l2)));
    assert.equal((await all(await stateOf(self))).length, 3 * CLUSTER);
  });

  test('has a misaligned L2 table or cluster', async () => {
    const size = 2 ** 12;
    const image = qcow2({
      clusterBits: 12,
      snapshots: [{ cells: [pattern(size), pattern(size)] }],
    });
    const table = image.tables[0] as Image['tables'][number];
    const entry = table.l1At + table.firstEntry * 8;
    const [at] = table.l2At as [number];
    for (const odd of [patched(image, entry, be64(at + 512)), patched(image, at, be64(512))]) {
      await assert.rejects(async () => all(await stateOf(odd)), { fault: 'corrupt' });
    }
  });

  test('keeps the error of its reader', async () => {
    const failure = new Error('no more disks');
    const failing = Qcow2Image.open(() => Promise.reject(failure));
    await assert.rejects(failing, failure);
  });
});
