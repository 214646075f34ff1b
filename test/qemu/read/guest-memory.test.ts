// Guest memory out of a stream against `pmemsave` of the guest that sent it.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { requireQemu, startQemu } from '../harness/harness.ts';
import { installQemu10 } from '../harness/qemu10.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const FOUR_GIB = 4 * GIB;
const PAGE = 4096;

interface Range {
  readonly address: number;
  readonly length: number;
}

interface Scenario {
  readonly what: string;
  readonly machine: string;
  /** Sizes of the NUMA nodes. */
  readonly nodes: readonly number[];
  /** Bytes below 4 GiB. */
  readonly low: number;
}

/** Names of the memory backends. */
const nodeName = (index: number): string => `ram-node${index}`;

function nodeArguments(nodes: readonly number[]): string[] {
  return nodes.flatMap((mib, index) => [
    ...['-object', `memory-backend-ram,id=${nodeName(index)},size=${mib}M`],
    ...['-numa', `node,nodeid=${index},memdev=${nodeName(index)}`],
  ]);
}

const scenarios: readonly Scenario[] = ['pc', 'q35'].flatMap((machine) => [
  { what: 'two nodes, the second larger', machine, nodes: [4, 12], low: 16 * MIB },
  { what: 'four unequal nodes', machine, nodes: [8, 2, 16, 4], low: 30 * MIB },
  {
    what: 'one node split at the hole',
    machine: `${machine},max-ram-below-4g=16M`,
    nodes: [24],
    low: 16 * MIB,
  },
  {
    what: 'two nodes, the second split at the hole',
    machine: `${machine},max-ram-below-4g=16M`,
    nodes: [12, 20],
    low: 16 * MIB,
  },
  {
    what: 'three nodes, the first split at the hole',
    machine: `${machine},max-ram-below-4g=16M`,
    nodes: [20, 4, 8],
    low: 16 * MIB,
  },
]);

function ranges(total: number, low: number): Range[] {
  const parts = [
    { address: 0, length: Math.min(low, total) },
    { address: FOUR_GIB, length: total - low },
  ];
  return parts.filter(({ length }) => length > 0);
}

/** A stopped guest that was saved. */
interface Guest {
  /** Path of the stream. */
  readonly stream: string;
  /** Contents of guest-physical memory, by the start of each range. */
  readonly memory: ReadonlyMap<number, Buffer>;
}

/**
 * Save a stopped guest with a pattern in its memory. QEMU's generic loader writes the pattern at
 * guest-physical addresses, so that it does not depend on the layout of RAM blocks.
 */
async function guestOf(
  dir: TempDir,
  binary: string | undefined,
  machine: string,
  memoryMiB: number,
  args: readonly string[],
  parts: readonly Range[],
): Promise<Guest> {
  const loaders = parts.flatMap(({ address, length }) => {
    const places = [0x1000, length / 2 + PAGE, length - PAGE].map((at) => address + at);
    return places.flatMap((place) => {
      // The address itself, so that a page in another place is noticed.
      const data = `0x${place.toString(16)}`;
      return ['-device', `loader,addr=${data},data=${data},data-len=8`];
    });
  });
  await using qemu = await startQemu({
    machine,
    memoryMiB,
    startStopped: true,
    extraArgs: [...args, ...loaders],
    ...(binary === undefined ? {} : { binary }),
  });
  const stream = dir.join('vm.mig');
  await qemu.migrate(`exec:cat >${stream}`);
  assert.equal((await qemu.waitMigrationEnd()).status, 'completed');
  const memory = new Map<number, Buffer>();
  for (const { address, length } of parts) {
    const filename = dir.join(`mem-${address}`);
    await qemu.qmp.execute('pmemsave', { val: address, size: length, filename });
    memory.set(address, fs.readFileSync(filename));
  }
  return { stream, memory };
}

/** Compare a flat image with what pmemsave wrote; the VGA window and shadowed ROMs are left out. */
function assertSameMemory(flat: string, memory: ReadonlyMap<number, Buffer>): void {
  const fd = fs.openSync(flat, 'r');
  try {
    for (const [address, wanted] of memory) {
      const found = Buffer.alloc(wanted.length);
      fs.readSync(fd, found, 0, found.length, address);
      if (address === 0) for (const each of [found, wanted]) each.fill(0, 0xa0000, 0x100000);
      const differing: string[] = [];
      for (let at = 0; at < wanted.length; at += PAGE) {
        if (found.compare(wanted, at, at + PAGE, at, at + PAGE) !== 0) {
          differing.push((address + at).toString(16));
        }
      }
      assert.deepEqual(differing, []);
      assert.ok(wanted.readBigUInt64LE(0x1000) !== 0n, 'the pattern was written');
    }
  } finally {
    fs.closeSync(fd);
  }
}

const QEMUS: readonly (readonly [name: string, binary: () => Promise<string | undefined>])[] = [
  ['QEMU 7.2', async () => undefined],
  ['QEMU 10.0', installQemu10],
];

for (const [name, binary] of QEMUS) {
  describe(`memory of a guest of ${name}`, { skip: requireQemu() }, () => {
    for (const { what, machine, nodes, low } of scenarios) {
      test(`${machine} with ${what} is where the guest sees it`, async () => {
        await using dir = makeTempDir();
        const total = nodes.reduce((sum, mib) => sum + mib, 0);
        const parts = ranges(total * MIB, low);
        const args = nodeArguments(nodes);
        const guest = await guestOf(dir, await binary(), machine, total, args, parts);
        const flat = dir.join('flat');
        const { code, stderr } = await run(['extract', guest.stream, '--flat', flat]);
        assert.equal(code, 0, stderr);
        assertSameMemory(flat, guest.memory);
      });
    }

    for (const [machine, low] of [
      ['pc', 3 * GIB],
      ['q35', 2 * GIB],
    ] as const) {
      test(`${machine} with two nodes of 2.5 GiB is split at the hole`, async () => {
        await using dir = makeTempDir();
        const parts = ranges(5 * GIB, low).map(({ address, length }) => ({
          // The edges are enough: pmemsave of all of it would be as large as the guest.
          address: address + length - MIB,
          length: MIB,
        }));
        const args = nodeArguments([2560, 2560]);
        const guest = await guestOf(dir, await binary(), machine, 5120, args, parts);
        const flat = dir.join('flat');
        const { code, stderr } = await run(['extract', guest.stream, '--flat', flat]);
        assert.equal(code, 0, stderr);
        assertSameMemory(flat, guest.memory);
      });
    }

    test('hotplugged memory is refused by name, and placed with --at', async () => {
      await using dir = makeTempDir();
      const args = [
        ...['-m', '16M,slots=2,maxmem=1G', '-object', 'memory-backend-ram,id=dimm1,size=128M'],
        ...['-device', 'pc-dimm,memdev=dimm1'],
      ];
      const parts = [...ranges(16 * MIB, 16 * MIB), { address: FOUR_GIB, length: 128 * MIB }];
      const guest = await guestOf(dir, await binary(), 'q35', 16, args, parts);
      const flat = dir.join('flat');
      const refused = await run(['extract', guest.stream, '--flat', flat]);
      assert.equal(refused.code, 5);
      assert.match(refused.stderr, /"dimm1": .* --at dimm1=ADDRESS.*usually at 0x100000000/);
      assert.equal(fs.existsSync(flat), false);
      const without = await run(['extract', guest.stream, '--flat', flat, '--allow-missing']);
      assert.equal(without.code, 0, without.stderr);
      assert.match(without.stderr, /"dimm1" is left out: /);
      const place = ['--at', 'dimm1=0x100000000'];
      const placed = await run(['extract', guest.stream, '--flat', flat, ...place]);
      assert.deepEqual([placed.code, placed.stderr], [0, '']);
      assertSameMemory(flat, guest.memory);
    });
  });
}
