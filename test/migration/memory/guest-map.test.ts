import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { DeviceState } from '../../../lib/migration/index.ts';
import { type GuestMap, guestMap } from '../../../lib/migration/memory/guest-map.ts';
import { LayoutFacts } from '../../../lib/migration/memory/layout-facts.ts';
import { corpusFacts, corpusNames } from '../../helpers/streams/corpus.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** A map as QEMU's `info mtree -f` shows one: first and last address, block, offset in it. */
function lines(map: GuestMap): string[] {
  return map.ranges.map(({ address, length, block, at }) => {
    const [first, last] = [address, address + length - 1].map((value) => value.toString(16));
    return `${first}-${last} ${block}${at === 0 ? '' : ` @${at.toString(16)}`}`;
  });
}

function block(name: string, usedLength: number) {
  return { name, usedLength };
}

const BIOS = 'fffc0000-ffffffff pc.bios';

// As QEMU 7.2 lays them out (`-M MACHINE -m SIZE`, `info mtree -f`), what covers memory left out.
const PLACED: readonly (readonly [machine: string, mib: number, ...ranges: string[]])[] = [
  ['pc-i440fx-7.2', 16, '0-ffffff pc.ram', BIOS],
  ['pc-i440fx-7.2', 3072, '0-bfffffff pc.ram', BIOS],
  ['pc-i440fx-7.2', 3583, '0-dfefffff pc.ram', BIOS],
  ['pc-i440fx-7.2', 3584, '0-bfffffff pc.ram', BIOS, '100000000-11fffffff pc.ram @c0000000'],
  ['pc-i440fx-7.2', 4096, '0-bfffffff pc.ram', BIOS, '100000000-13fffffff pc.ram @c0000000'],
  ['pc-q35-7.2', 2815, '0-afefffff pc.ram', BIOS],
  ['pc-q35-7.2', 2816, '0-7fffffff pc.ram', BIOS, '100000000-12fffffff pc.ram @80000000'],
  ['pc-q35-7.2', 6144, '0-7fffffff pc.ram', BIOS, '100000000-1ffffffff pc.ram @80000000'],
  ['pc-i440fx-1.7', 4096, '0-dfffffff pc.ram', BIOS, '100000000-11fffffff pc.ram @e0000000'],
  ['isapc', 4096, '0-dfffffff pc.ram', BIOS, '100000000-11fffffff pc.ram @e0000000'],
  ['isapc', 3072, '0-bfffffff pc.ram', BIOS],
];

for (const [machine, mib, ...ranges] of PLACED) {
  test(`${machine} with ${mib} MiB is laid out as QEMU does`, () => {
    const map = guestMap(machine, [block('pc.ram', mib * MIB), block('pc.bios', 0x40000)]);
    assert.deepEqual(lines(map), ranges);
    assert.equal(map.architecture, 'x86_64');
    assert.equal(map.isCertain, true);
    assert.deepEqual(map.warnings, []);
  });
}

test('microvm is split at 3 GiB', () => {
  const of = (size: number) =>
    lines(guestMap('microvm', [block('microvm.ram', size), block('pc.bios', 0x10000)]));
  assert.deepEqual(of(3 * GIB), ['0-bfffffff microvm.ram', 'ffff0000-ffffffff pc.bios']);
  assert.deepEqual(of(5 * GIB), [
    '0-bfffffff microvm.ram',
    'ffff0000-ffffffff pc.bios',
    '100000000-17fffffff microvm.ram @c0000000',
  ]);
});

test('machine types of distributions and short names are known', () => {
  const split = (machine: string) => {
    const map = guestMap(machine, [block('pc.ram', 4 * GIB)]);
    assert.equal(map.isCertain, true, machine);
    return map.ranges[0]?.length;
  };
  for (const machine of ['pc', 'pc-i440fx-10.0', 'pc-i440fx-rhel7.6.0', 'pc-i440fx-8.1+pve0']) {
    assert.equal(split(machine), 3 * GIB, machine);
  }
  for (const machine of ['q35', 'pc-q35-10.1', 'pc-q35-rhel9.4.0', 'pc-q35-noble']) {
    assert.equal(split(machine), 2 * GIB, machine);
  }
});

test('flash of a PC ends at 4 GiB, the flash for variables is below it', () => {
  const map = guestMap('q35', [
    block('pc.ram', GIB),
    block('system.flash0', 0x400000),
    block('system.flash1', 0x40000),
    block('isa-bios', 0x20000),
    block('0000:00:02.0/vga.vram', 0x1000000),
  ]);
  assert.deepEqual(lines(map), [
    '0-3fffffff pc.ram',
    'ffbc0000-ffbfffff system.flash1',
    'ffc00000-ffffffff system.flash0',
  ]);
  assert.deepEqual(map.warnings, []);
});

test("Arm's virt has its memory in one piece from 1 GiB on", () => {
  const map = guestMap('virt-7.2', [
    block('mach-virt.ram', 6 * GIB),
    block('virt.flash0', 64 * MIB),
    block('virt.flash1', 64 * MIB),
    block('/rom@etc/acpi/tables', 0x20000),
  ]);
  assert.deepEqual(lines(map), [
    '0-3ffffff virt.flash0',
    '4000000-7ffffff virt.flash1',
    '40000000-1bfffffff mach-virt.ram',
  ]);
  assert.equal(map.architecture, 'aarch64');
  assert.equal(map.isCertain, true);
});

test("RISC-V's virt is distinguished from Arm's by the name of its memory", () => {
  const map = guestMap('virt', [
    block('riscv_virt_board.ram', GIB),
    block('virt.flash0', 32 * MIB),
    block('virt.flash1', 32 * MIB),
    block('riscv_virt_board.mrom', 0xf000),
  ]);
  assert.deepEqual(lines(map), [
    '20000000-21ffffff virt.flash0',
    '22000000-23ffffff virt.flash1',
    '80000000-bfffffff riscv_virt_board.ram',
  ]);
  assert.equal(map.architecture, 'riscv64');
  assert.deepEqual(map.warnings, []);
});

test('memory of an Arm virt with a name of the user is found', () => {
  const blocks = [block('/objects/mem0', GIB), block('virt.flash0', 64 * MIB)];
  const map = guestMap('virt-9.1', blocks);
  assert.deepEqual(lines(map), ['0-3ffffff virt.flash0', '40000000-7fffffff /objects/mem0']);
  assert.equal(map.architecture, 'aarch64');
});

test('main memory under a name of the user is found with a warning', () => {
  const map = guestMap('pc-q35-7.2', [
    block('0000:00:01.0/vga.vram', 16 * GIB),
    block('mem0', 4 * GIB),
    block('pc.bios', 0x40000),
  ]);
  assert.deepEqual(lines(map), ['0-7fffffff mem0', BIOS, '100000000-17fffffff mem0 @80000000']);
  assert.equal(map.isCertain, true);
  assert.deepEqual(map.warnings, [
    'no block is named "pc.ram": "mem0" is used as main memory, because it is the only candidate',
  ]);
});

/** Facts of a stream whose RTC reports main memory of a PC. */
function pcFacts(below4G: number, above4G: number): LayoutFacts {
  const cmos = new Uint8Array(128);
  const above16M = Math.max(0, below4G - 16 * MIB) / 0x10000;
  const extendedKiB = Math.min(0xffff, (below4G - MIB) / 1024);
  cmos.set([extendedKiB & 255, extendedKiB >> 8], 0x30);
  cmos.set([above16M & 255, above16M >> 8], 0x34);
  const units = above4G / 0x10000;
  cmos.set([units & 255, (units >> 8) & 255, units >> 16], 0x5b);
  const facts = new LayoutFacts();
  addState(facts, 'mc146818rtc', { cmos_data: cmos });
  return facts;
}

function addState(facts: LayoutFacts, name: string, state: DeviceState): void {
  const section = { sectionId: 1, name, instanceId: 0, versionId: 1, kind: 'full' as const };
  const place = { ...section, offset: 0, bytes: 0 };
  facts.add({ type: 'section', offset: 0, section: place });
  facts.add({ type: 'device', offset: 0, section: place, state, body: Buffer.alloc(0) } as never);
}

describe('NUMA nodes', () => {
  const nodes = (...sizes: number[]) =>
    sizes.map((mib, index) => block(`ram-node${index}`, mib * MIB)).reverse();

  test('follow each other in the order of their numbers', () => {
    const map = guestMap('pc', nodes(4, 12, 1));
    assert.deepEqual(lines(map), [
      '0-3fffff ram-node0',
      '400000-ffffff ram-node1',
      '1000000-10fffff ram-node2',
    ]);
    assert.equal(map.isCertain, true);
    assert.deepEqual([map.warnings, map.unplaced], [[], []]);
  });

  test('are split at the hole below 4 GiB, by their total', () => {
    assert.deepEqual(lines(guestMap('q35', nodes(2560, 2560))), [
      '0-7fffffff ram-node0',
      '100000000-11fffffff ram-node0 @80000000',
      '120000000-1bfffffff ram-node1',
    ]);
    assert.deepEqual(lines(guestMap('pc', nodes(1024, 3072))), [
      '0-3fffffff ram-node0',
      '40000000-bfffffff ram-node1',
      '100000000-13fffffff ram-node1 @80000000',
    ]);
  });

  test('are split where the RTC reports the end of low memory (max-ram-below-4g)', () => {
    const facts = pcFacts(24 * MIB, 40 * MIB);
    assert.deepEqual(lines(guestMap('q35', nodes(16, 48), { facts })), [
      '0-ffffff ram-node0',
      '1000000-17fffff ram-node1',
      '100000000-1027fffff ram-node1 @800000',
    ]);
  });

  test('of ten and more nodes are in numeric order', () => {
    const sizes = Array.from({ length: 11 }, () => 1);
    const names = guestMap('pc', nodes(...sizes)).ranges.map((range) => range.block);
    assert.deepEqual(names.slice(-2), ['ram-node9', 'ram-node10']);
  });

  test("are distinguished from hotplugged memory by the RTC's total", () => {
    const blocks = [block('mem0', 4 * MIB), block('mem1', 12 * MIB), block('x', 8 * MIB)];
    const map = guestMap('pc', blocks, { facts: pcFacts(16 * MIB, 0) });
    assert.deepEqual(lines(map), ['0-3fffff mem0', '400000-ffffff mem1']);
    assert.deepEqual(
      map.unplaced.map((each) => each.block),
      ['x'],
    );
    const alone = guestMap('pc', blocks, { facts: pcFacts(12 * MIB, 0) });
    assert.deepEqual(lines(alone), ['0-bfffff mem1']);
    assert.deepEqual(
      alone.unplaced.map((each) => each.block),
      ['mem0', 'x'],
    );
  });

  test('with names that do not show their order are not guessed', () => {
    const blocks = [block('alpha', 4 * MIB), block('beta', 12 * MIB)];
    const map = guestMap('pc', blocks);
    assert.deepEqual(lines(map), []);
    assert.equal(map.isCertain, false);
    assert.deepEqual(map.unplaced, [
      {
        block: 'alpha',
        reason:
          'the order of "alpha", "beta" in guest memory is unknown; give their order with --nodes NAME,NAME',
      },
      {
        block: 'beta',
        reason:
          'the order of "alpha", "beta" in guest memory is unknown; give their order with --nodes NAME,NAME',
      },
    ]);
    const told = guestMap('pc', blocks, { nodes: ['beta', 'alpha'] });
    assert.deepEqual(lines(told), ['0-bfffff beta', 'c00000-ffffff alpha']);
  });

  test('of a board whose memory begins elsewhere begin there', () => {
    const blocks = [...nodes(4, 12), block('virt.flash0', MIB)];
    assert.deepEqual(lines(guestMap('virt-7.2', blocks)).slice(1), [
      '40000000-403fffff ram-node0',
      '40400000-40ffffff ram-node1',
    ]);
  });
});

test('hotplugged memory is not placed, since a stream does not report its address', () => {
  const blocks = [block('pc.ram', GIB), block('dimm1', GIB)];
  const map = guestMap('q35', blocks);
  assert.equal(map.isCertain, false);
  assert.deepEqual(map.unplaced, [
    {
      block: 'dimm1',
      reason:
        'a stream does not report the address of pc-dimm or nvdimm memory; give it with ' +
        '--at dimm1=ADDRESS, as "info memory-devices" of QEMU shows it (the first such device is ' +
        'usually at 0x100000000)',
    },
  ]);
  const told = guestMap('q35', blocks, { at: new Map([['dimm1', 4 * GIB]]) });
  assert.deepEqual(lines(told), ['0-3fffffff pc.ram', '100000000-13fffffff dimm1']);
  assert.equal(told.isCertain, true);
});

test('blocks that overlap, and names that the stream does not have, are refused', () => {
  const blocks = [block('pc.ram', GIB), block('dimm1', GIB)];
  const placed = (name: string, address: number) => () =>
    guestMap('q35', blocks, { at: new Map([[name, address]]) });
  assert.throws(
    placed('dimm1', 0x3ffff000),
    /^QemuFileError: EINVAL: .*"pc\.ram" \(0x0 to 0x3fffffff\) and "dimm1" \(0x3ffff000 to 0x7fffefff\)/,
  );
  assert.throws(placed('dimm2', 0), /no RAM block "dimm2"; its blocks are "pc\.ram", "dimm1"/);
  assert.throws(() => guestMap('q35', blocks, { nodes: ['x'] }), /no RAM block "x"/);
});

describe('virtio-mem', () => {
  const blocks = [block('pc.ram', GIB), block('0000:00:01.0/vm0', 256 * MIB)];
  // Address 0x140000000, 256 MiB in blocks of 2 MiB, node 0: as QEMU 10.0 sends them.
  const sanity = Buffer.from('00000001400000000000000010000000000000000020000000000000', 'hex');
  // Blocks 0, 1, 2 and 64 are plugged.
  const bitmap = Buffer.from('00000000000000070000000000000001', 'hex');

  test('has the plugged parts of its block where its state says', () => {
    const facts = new LayoutFacts();
    const name = '0000:00:01.0/virtio-mem-device-early';
    addState(facts, name, { tmp: sanity, size: 8 * MIB, bitmap });
    assert.deepEqual(lines(guestMap('q35', blocks, { facts })), [
      '0-3fffffff pc.ram',
      '140000000-1405fffff 0000:00:01.0/vm0',
      '148000000-1481fffff 0000:00:01.0/vm0 @8000000',
    ]);
  });

  test('is found in the state of QEMU 7.2, which does not describe it', () => {
    const sizes = Buffer.from('000000001000000000000000008000000000000000800000', 'hex');
    const virtio = Buffer.concat([Buffer.alloc(77, 1), sanity, sizes, bitmap, Buffer.alloc(40)]);
    const facts = new LayoutFacts();
    addState(facts, '0000:00:01.0/virtio-mem', { virtio });
    assert.equal(lines(guestMap('q35', blocks, { facts })).length, 3);
    const twice = new LayoutFacts();
    addState(twice, '0000:00:01.0/virtio-mem', { virtio: Buffer.concat([virtio, virtio]) });
    assert.deepEqual(lines(guestMap('q35', blocks, { facts: twice })), ['0-3fffffff pc.ram']);
  });

  test('without a readable state is not placed', () => {
    const facts = new LayoutFacts();
    addState(facts, '0000:00:01.0/virtio-mem', { virtio: Buffer.alloc(100) });
    const map = guestMap('q35', blocks, { facts });
    assert.match(map.unplaced[0]?.reason ?? '', /does not report the address of this virtio-mem/);
  });
});

test('shared memory of ivshmem is where the guest has mapped its BAR 2', () => {
  const blocks = [block('pc.ram', GIB), block('0000:00:02.0/shm', MIB)];
  const config = new Uint8Array(256);
  config.set([0x0c, 0, 0, 0xfe, 2], 0x18);
  const map = (command: number) => {
    config[4] = command;
    const facts = new LayoutFacts();
    addState(facts, '0000:00:02.0/ivshmem-plain', { parent_obj: { 'config[0]': config } });
    return guestMap('q35', blocks, { facts });
  };
  assert.deepEqual(lines(map(2)), ['0-3fffffff pc.ram', '2fe000000-2fe0fffff 0000:00:02.0/shm']);
  assert.deepEqual(lines(map(0)), ['0-3fffffff pc.ram']);
  assert.match(map(0).warnings[0] ?? '', /is not mapped by the guest: it is left out/);
});

// As `info mtree -f` of QEMU 7.2 shows them.
const BOARDS: readonly (readonly [machine: string, ram: string, ...ranges: string[]])[] = [
  ['raspi3b', 'ram', '0-1fffffff'],
  ['SS-5', 'sun4m.ram', '0-1fffffff'],
  ['mac99', 'ppc_core99.ram', '0-1fffffff'],
  ['pseries-7.2', 'ppc_spapr.ram', '0-1fffffff'],
  ['s390-ccw-virtio-7.2', 's390.ram', '0-1fffffff'],
  ['vexpress-a9', 'vexpress.highmem', '60000000-7fffffff'],
  ['sabrelite', 'sabrelite.ram', '10000000-2fffffff'],
  ['sifive_u', 'riscv.sifive.u.ram', '80000000-9fffffff'],
  ['r2d', 'r2d.sdram', 'c000000-2bffffff'],
  ['malta', 'mips_malta.ram', '0-fffffff', '80000000-9fffffff'],
  ['virt', 'loongarch.ram', '0-fffffff', '90000000-9fffffff @10000000'],
];

for (const [machine, ram, ...expected] of BOARDS) {
  test(`${machine} with 512 MiB has its memory where QEMU has it`, () => {
    const map = guestMap(machine, [block(ram, 512 * MIB)]);
    const named = lines(map).map((line) => line.replace(` ${ram}`, ''));
    assert.deepEqual(named, expected);
    assert.equal(map.isCertain, true);
  });
}

test('memory of an unknown machine is not placed, unless its address is given', () => {
  for (const machine of ['x-board-7.2', '__proto__', 'pc-q35-', null]) {
    const map = guestMap(machine, [block('x.bios', 4096), block('x.ram', GIB)]);
    assert.deepEqual(lines(map), [], String(machine));
    assert.equal(map.isCertain, false);
    assert.equal(map.architecture, null);
    assert.match(
      map.unplaced[0]?.reason ?? '',
      /^where a machine .* has its memory is unknown; give the address with --at x\.ram=ADDRESS$/,
    );
  }
  const told = guestMap('x-board', [block('x.ram', GIB)], { at: new Map([['x.ram', GIB]]) });
  assert.deepEqual(lines(told), ['40000000-7fffffff x.ram']);
  const hostile = guestMap('a\x1b[31m', [block('x', 4096)]);
  assert.match(hostile.unplaced[0]?.reason ?? '', /a machine "a\\u\{1b\}\[31m" has/);
});

test('a stream without main memory has no ranges and no certainty', () => {
  const map = guestMap('pc', [block('0000:00:02.0/vga.vram', MIB), block('pc.ram', 0)]);
  assert.deepEqual(map.ranges, []);
  assert.equal(guestMap('pc', [block('vga.vram', MIB)]).isCertain, false);
  assert.deepEqual(guestMap('pc', [block('vga.vram', MIB)]).warnings, [
    'the stream has no block of main memory',
  ]);
});

test('a layout that reaches the addresses reserved on AMD is not certain', () => {
  assert.equal(guestMap('q35', [block('pc.ram', 900 * GIB)]).isCertain, true);
  const map = guestMap('q35', [block('pc.ram', 1024 * GIB)]);
  assert.equal(map.isCertain, false);
  assert.match(map.warnings[0] ?? '', /AMD/);
});

test('firmware of an impossible length does not cover RAM', () => {
  const map = guestMap('pc', [
    block('pc.ram', 3.25 * GIB),
    block('pc.bios', 2 ** 49),
    block('system.flash0', GIB),
    block('system.flash1', 2 ** 49),
  ]);
  assert.deepEqual(lines(map), ['0-cfffffff pc.ram']);
});

const skip = corpusNames().length === 0 && 'there is no corpus';

test('every recording has a certain map that covers its main memory', { skip }, () => {
  for (const name of corpusNames()) {
    const facts = corpusFacts(name);
    const blocks = facts.ram_blocks
      .filter((each) => each.in_stream !== false)
      .map(({ name, used }) => block(name, used));
    const map = guestMap(facts.machine_type, blocks);
    assert.equal(map.isCertain, true, name);
    assert.deepEqual(map.warnings, [], name);
    const main = blocks.reduce((a, b) => (b.usedLength > a.usedLength ? b : a));
    const placed = map.ranges.filter((range) => range.block === main.name);
    assert.equal(
      placed.reduce((sum, { length }) => sum + length, 0),
      main.usedLength,
      name,
    );
  }
});
