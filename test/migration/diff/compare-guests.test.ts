import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { compareGuests } from '../../../lib/migration/diff/compare-guests.ts';
import type { ComparedDevice } from '../../../lib/migration/diff/compared-devices.ts';
import { compareDevices } from '../../../lib/migration/diff/device-differences.ts';
import { matchAny } from '../../../lib/migration/diff/ignore.ts';
import type { PageKindCounts, PageRange } from '../../../lib/migration/diff/page-kinds.ts';
import type { DeviceState } from '../../../lib/migration/format/device-types.ts';
import type { Extent } from '../../../lib/migration/memory/ram-image.ts';
import type { PageSource } from '../../../lib/migration/page-source/page-source.ts';
import type { SavedGuest } from '../../../lib/migration/saved-guest/saved-guest.ts';
import { bareGuest } from '../../helpers/guests/saved-guest.ts';

const PAGE = 1024;

/** A page of one letter; `.` is a page of zeros. */
function pageOf(letter: string): Buffer {
  return Buffer.alloc(PAGE, letter === '.' ? 0 : letter);
}

/** Guest memory from one letter for each page; `isLate` answers with promises. */
function memory(blocks: Readonly<Record<string, string>>, isLate = false): PageSource {
  const contents = Object.values(blocks).map((letters) =>
    Buffer.concat(Array.from(letters, pageOf)),
  );
  return {
    pageSize: PAGE,
    blocks: Object.entries(blocks).map(([name, letters]) => ({
      name,
      usedLength: letters.length * PAGE,
      hostPageSize: null,
      address: null,
    })),
    *extents(block): Generator<Extent> {
      const letters = Object.values(blocks)[block] as string;
      for (const { index, 0: run } of letters.matchAll(/[^.]+/g)) {
        yield { at: index * PAGE, length: run.length * PAGE };
      }
    },
    read(block, offset, target): void | Promise<void> {
      const bytes = contents[block] as Buffer;
      assert.ok(offset % PAGE === 0 && offset + target.length <= bytes.length);
      target.set(bytes.subarray(offset, offset + target.length));
      return isLate ? new Promise(setImmediate) : undefined;
    },
  };
}

function device(
  name: string,
  body: Uint8Array,
  state: DeviceState | null,
  more: Partial<ComparedDevice> = {},
): ComparedDevice {
  return { name, instanceId: 0, versionId: 1, body, state, ...more };
}

function guest(parts: Partial<SavedGuest> = {}): SavedGuest {
  return bareGuest(memory({}), parts);
}

interface BlockResult {
  name: string;
  usedLength: readonly (number | null)[];
  pages: PageKindCounts;
  ranges: PageRange[];
}

async function blocksOf(a: PageSource, b: PageSource): Promise<BlockResult[]> {
  const { blocks } = await compareGuests(guest({ pages: a }), guest({ pages: b }));
  return blocks
    .filter(({ isDifferent }) => isDifferent)
    .map(({ name, usedLength, pages, ranges }) => {
      return { name, usedLength, pages, ranges: [...ranges()] };
    });
}

describe('memory', () => {
  test('is the same where all pages are, sent as zeros or not at all', async () => {
    const differences = await compareGuests(
      guest({ pages: memory({ ram: 'ab..c' }) }),
      guest({ pages: memory({ ram: 'ab..c' }) }),
    );
    assert.equal(differences.isSame, true);
  });

  test('has four kinds of differing pages, and ranges of adjacent ones', async () => {
    const a = memory({ ram: 'abcd..ef' });
    const b = memory({ ram: 'a.XYZ.bf' });
    assert.deepEqual(await blocksOf(a, b), [
      {
        name: 'ram',
        usedLength: [8 * PAGE, 8 * PAGE],
        pages: { changed: 2, becameZero: 1, wasZero: 1, moved: 1 },
        ranges: [
          { offset: PAGE, length: PAGE, kind: 'becameZero' },
          { offset: 2 * PAGE, length: 2 * PAGE, kind: 'changed' },
          { offset: 4 * PAGE, length: PAGE, kind: 'wasZero' },
          { offset: 6 * PAGE, length: PAGE, kind: 'moved' },
        ],
      },
    ]);
  });

  test('counts a page as moved to where zeros were, and from another block', async () => {
    const a = memory({ one: 'a.', two: 'b', old: 'c' });
    const b = memory({ one: '.a', two: 'c' });
    assert.deepEqual(
      (await blocksOf(a, b)).map(({ name, pages, usedLength }) => [name, pages, usedLength]),
      [
        ['one', { changed: 0, becameZero: 1, wasZero: 0, moved: 1 }, [2 * PAGE, 2 * PAGE]],
        ['two', { changed: 0, becameZero: 0, wasZero: 0, moved: 1 }, [PAGE, PAGE]],
        ['old', { changed: 0, becameZero: 0, wasZero: 0, moved: 0 }, [PAGE, null]],
      ],
    );
  });

  test('finds every copy of a page that was there once, or several times', async () => {
    const [block] = await blocksOf(memory({ ram: 'aabc....' }), memory({ ram: 'baaaaabz' }));
    assert.deepEqual(block?.pages, { changed: 0, becameZero: 0, wasZero: 1, moved: 6 });
    assert.deepEqual(block?.ranges, [
      { offset: 0, length: PAGE, kind: 'moved' },
      { offset: 2 * PAGE, length: 5 * PAGE, kind: 'moved' },
      { offset: 7 * PAGE, length: PAGE, kind: 'wasZero' },
    ]);
  });

  test('is compared up to the end of the shorter block', async () => {
    const [block] = await blocksOf(memory({ ram: 'abc' }), memory({ ram: 'aX' }));
    assert.deepEqual(block, {
      name: 'ram',
      usedLength: [3 * PAGE, 2 * PAGE],
      pages: { changed: 1, becameZero: 0, wasZero: 0, moved: 0 },
      ranges: [{ offset: PAGE, length: PAGE, kind: 'changed' }],
    });
  });

  test('has blocks that only one guest has, without pages', async () => {
    const none = { changed: 0, becameZero: 0, wasZero: 0, moved: 0 };
    assert.deepEqual(await blocksOf(memory({ x: 'a', y: 'b' }), memory({ y: 'b', z: 'cc' })), [
      { name: 'x', usedLength: [PAGE, null], pages: none, ranges: [] },
      { name: 'z', usedLength: [null, 2 * PAGE], pages: none, ranges: [] },
    ]);
  });

  test('is compared in windows, with sources that answer at once or later', async () => {
    // 2500 pages of 1 KiB are three windows; the one in the middle has no data.
    const letters = (edit: Readonly<Record<number, string>>): string =>
      Array.from({ length: 2500 }, (_, at) => edit[at] ?? '.').join('');
    const a = { ram: letters({ 0: 'a', 1023: 'b', 2048: 'c', 2499: 'd' }) };
    const b = { ram: letters({ 0: 'a', 1024: 'b', 2048: 'd', 2499: 'e' }) };
    const expected = [
      { offset: 1023 * PAGE, length: PAGE, kind: 'becameZero' },
      { offset: 1024 * PAGE, length: PAGE, kind: 'moved' },
      { offset: 2048 * PAGE, length: PAGE, kind: 'moved' },
      { offset: 2499 * PAGE, length: PAGE, kind: 'changed' },
    ];
    for (const isLate of [false, true]) {
      const [block] = await blocksOf(memory(a, isLate), memory(b, isLate));
      assert.deepEqual(block?.ranges, expected);
    }
  });

  test('of other page sizes cannot be compared', async () => {
    const wide = { ...memory({ ram: 'aaaa' }), pageSize: 4 * PAGE };
    await assert.rejects(blocksOf(memory({ ram: 'aaaa' }), wide), {
      fault: 'unsupported',
      message: /pages of 1024 bytes, the other of 4096 bytes/,
    });
  });

  test('is not compared any further once the signal is aborted', async () => {
    const large = { ram: 'a'.repeat(70_000) };
    await assert.rejects(
      compareGuests(guest({ pages: memory(large) }), guest({ pages: memory(large) }), {
        signal: AbortSignal.abort(),
      }),
      { code: 'ECANCELED' },
    );
  });
});

describe('devices', () => {
  const devicesOf = (
    a: readonly ComparedDevice[],
    b: readonly ComparedDevice[],
    ...ignore: string[]
  ): unknown =>
    compareDevices(a, b, matchAny(ignore)).map(({ onlyIn, versionIds, moreFields, ...rest }) => ({
      ...rest,
      ...(onlyIn === null ? {} : { onlyIn }),
      ...(versionIds === null ? {} : { versionIds }),
      ...(moreFields === 0 ? {} : { moreFields }),
    }));
  const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

  test('differ in fields, elements, and fields of structures', () => {
    const a = { n: 1, list: [1, 2, 3], inner: { x: 5n, bytes: bytes(1, 2) }, kept: true };
    const b = { n: 2, list: [1, 9, 3], inner: { x: 6n, bytes: bytes(1, 3) }, kept: true };
    assert.deepEqual(devicesOf([device('dev', bytes(1), a)], [device('dev', bytes(2), b)]), [
      {
        name: 'dev',
        instanceId: 0,
        fields: [
          { path: 'n', a: 1, b: 2 },
          { path: 'list[1]', a: 2, b: 9 },
          { path: 'inner.x', a: 5n, b: 6n },
          { path: 'inner.bytes', a: bytes(1, 2), b: bytes(1, 3) },
        ],
      },
    ]);
  });

  test('differ in a subsection, a field or an element that only one has', () => {
    const a = { list: [1], 'dev/sub': { on: true } };
    const b = { list: [1, { y: 2 }], extra: null };
    assert.deepEqual(devicesOf([device('dev', bytes(1), a)], [device('dev', bytes(2), b)]), [
      {
        name: 'dev',
        instanceId: 0,
        fields: [
          { path: 'list[1]', a: undefined, b: { y: 2 } },
          { path: 'dev/sub', a: { on: true }, b: undefined },
          { path: 'extra', a: undefined, b: null },
        ],
      },
    ]);
  });

  test('are matched by name and instance, and those of the same ones by their order', () => {
    const a = [
      device('x', bytes(1), { v: 1 }, { instanceId: 2 }),
      device('twin', bytes(1), { v: 1 }),
      device('twin', bytes(2), { v: 2 }),
      device('old', bytes(0), {}),
    ];
    const b = [
      device('twin', bytes(1), { v: 1 }),
      device('new', bytes(0), {}),
      device('twin', bytes(3), { v: 3 }),
      device('x', bytes(4), { v: 4 }, { instanceId: 2 }),
    ];
    assert.deepEqual(devicesOf(a, b), [
      { name: 'x', instanceId: 2, fields: [{ path: 'v', a: 1, b: 4 }] },
      { name: 'twin', instanceId: 0, fields: [{ path: 'v', a: 2, b: 3 }] },
      { name: 'old', instanceId: 0, onlyIn: 'a', fields: [] },
      { name: 'new', instanceId: 0, onlyIn: 'b', fields: [] },
    ]);
  });

  test('differ in their version, and in their bytes where they are not decoded', () => {
    const a = [device('v', bytes(1), { x: 1 }), device('raw', bytes(1, 2), null)];
    const b = [
      device('v', bytes(1), { x: 1 }, { versionId: 3 }),
      device('raw', bytes(1, 3), { x: 1 }),
    ];
    assert.deepEqual(devicesOf(a, b), [
      { name: 'v', instanceId: 0, versionIds: [1, 3], fields: [] },
      {
        name: 'raw',
        instanceId: 0,
        fields: [{ path: '', a: bytes(1, 2), b: bytes(1, 3) }],
      },
    ]);
  });

  test('are compared without ignored fields', () => {
    const a = [device('timer', bytes(1), { ticks: 1, on: 2 }), device('gone', bytes(1), {})];
    const b = [device('timer', bytes(2), { ticks: 3, on: 2 })];
    assert.deepEqual(devicesOf(a, b, 'timer.t*s', 'gone.*'), []);
    assert.deepEqual(devicesOf(a, b, 'timer.o?', 'gon.*', 'timer'), [
      { name: 'timer', instanceId: 0, fields: [{ path: 'ticks', a: 1, b: 3 }] },
      { name: 'gone', instanceId: 0, onlyIn: 'a', fields: [] },
    ]);
  });

  test('are decoded by the VM description of their stream, where it fits', async () => {
    const section = (sectionId: number, name: string, body: Uint8Array) => {
      return { kind: 'full' as const, sectionId, name, instanceId: 0, versionId: 1, body };
    };
    const entry = (name: string, size: number) => {
      const fields = [{ name: 'x', type: 'uint8', size }];
      return { name, instance_id: 0, vmsd_name: name, version: 1, fields };
    };
    const description = { page_size: 4096, devices: [entry('dev', 1), entry('odd', 1)] };
    const live = { sectionId: 7, name: 'live', instanceId: 0, versionId: 1 };
    const sectionsOf = (value: number): SavedGuest['sections'] => [
      { ...live, kind: 'start', body: bytes(1) },
      { ...live, kind: 'end', body: bytes(2, value) },
      section(8, 'dev', bytes(value)),
      section(9, 'odd', bytes(0, value)),
      section(10, 'raw', bytes(value, 1)),
    ];
    const descriptionText = Buffer.from(JSON.stringify(description));
    const { devices, isSame } = await compareGuests(
      guest({ sections: sectionsOf(3), descriptionText }),
      guest({ sections: sectionsOf(4), descriptionText }),
    );
    assert.equal(isSame, false);
    assert.deepEqual(
      devices.map(({ name, fields }) => [name, fields]),
      [
        ['dev', [{ path: 'x', a: 3, b: 4 }]],
        ['odd', [{ path: '', a: bytes(0, 3), b: bytes(0, 4) }]],
        ['raw', [{ path: '', a: bytes(3, 1), b: bytes(4, 1) }]],
        ['live', [{ path: '', a: Buffer.from([1, 2, 3]), b: Buffer.from([1, 2, 4]) }]],
      ],
    );
  });
});

test('a pattern matches whole names, and its other characters stand for themselves', () => {
  const isIgnored = matchAny(['a.*[0]', '0000:00:01.0/*.b?r', 'x+y']);
  const names = ['a.list[0]', 'a.list[01]', 'b.a.list[0]', '0000:00:01.0/nic/2.bar', 'xxy', 'x+y'];
  assert.deepEqual(names.filter(isIgnored), ['a.list[0]', '0000:00:01.0/nic/2.bar', 'x+y']);
  assert.equal(matchAny([])(''), false);
});

test('configurations differ in machine and capabilities, not in the layout of the stream', async () => {
  const configuration = (machine: string, ...capabilities: string[]) => {
    return { machine, targetPageBits: null, capabilities, uuid: null };
  };
  const compare = async (a: SavedGuest['configuration'], b: SavedGuest['configuration']) =>
    (await compareGuests(guest({ configuration: a }), guest({ configuration: b }))).configuration;
  assert.deepEqual(
    await compare(configuration('pc', 'mapped-ram', 'x-ignore-shared'), configuration('q35')),
    [
      { path: 'machine', a: 'pc', b: 'q35' },
      { path: 'capabilities[0]', a: 'x-ignore-shared', b: undefined },
    ],
  );
  assert.deepEqual(await compare(configuration('pc', 'mapped-ram'), configuration('pc')), []);
  assert.deepEqual(await compare(null, configuration('pc')), [
    { path: 'machine', a: null, b: 'pc' },
  ]);
});
