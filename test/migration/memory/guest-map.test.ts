import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type GuestMap, guestMap } from '../../../lib/migration/memory/guest-map.ts';
import { corpusFacts, corpusNames } from '../../helpers/corpus.ts';

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

test('machine types of distributions, and the short names, are known', () => {
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

test('flash of a PC ends at 4 GiB, that for variables lies below', () => {
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

test("Arm's virt has its memory from 1 GiB on, in one piece", () => {
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

test("RISC-V's virt is told from Arm's by the name of its memory", () => {
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

test('memory of an Arm virt under a name of the user is found', () => {
  const blocks = [block('/objects/mem0', GIB), block('virt.flash0', 64 * MIB)];
  const map = guestMap('virt-9.1', blocks);
  assert.deepEqual(lines(map), ['0-3ffffff virt.flash0', '40000000-7fffffff /objects/mem0']);
  assert.equal(map.architecture, 'aarch64');
});

test('main memory under a name of the user is found, and said to be so', () => {
  const map = guestMap('pc-q35-7.2', [
    block('0000:00:01.0/vga.vram', 16 * GIB),
    block('mem0', 4 * GIB),
    block('pc.bios', 0x40000),
  ]);
  assert.deepEqual(lines(map), ['0-7fffffff mem0', BIOS, '100000000-17fffffff mem0 @80000000']);
  assert.equal(map.isCertain, true);
  assert.deepEqual(map.warnings, [
    'no block is named "pc.ram": "mem0" is taken for it, the only block it can be',
  ]);
});

test('the largest of several blocks is taken for main memory, without certainty', () => {
  const map = guestMap('pc', [block('n0', GIB), block('n1', 2 * GIB), block('n2', GIB)]);
  assert.deepEqual(lines(map), ['0-7fffffff n1']);
  assert.equal(map.isCertain, false);
  assert.deepEqual(map.warnings, [
    'no block is named "pc.ram": "n1" is taken for it, the largest it can be',
    'the stream does not say where "n0" is: it is left out',
    'the stream does not say where "n2" is: it is left out',
  ]);
});

test('hotplugged memory is reported, since a stream does not say where it is', () => {
  const map = guestMap('q35', [block('pc.ram', GIB), block('dimm1', GIB)]);
  assert.equal(map.isCertain, true);
  assert.deepEqual(map.warnings, ['the stream does not say where "dimm1" is: it is left out']);
});

test('an unknown machine has its largest block at 0, without certainty', () => {
  for (const machine of ['s390-ccw-virtio-7.2', '__proto__', 'pc-q35-', null]) {
    const map = guestMap(machine, [block('x', 4096), block('s390.ram', 8 * GIB)]);
    assert.deepEqual(lines(map), ['0-1ffffffff s390.ram'], String(machine));
    assert.equal(map.isCertain, false);
    assert.equal(map.architecture, null);
    assert.match(
      map.warnings[0] ?? '',
      /^it is not known where a machine .* it is put at address 0$/,
    );
  }
  const hostile = guestMap('a\x1b[31m', []);
  assert.match(hostile.warnings[0] ?? '', /a machine "a\\u\{1b\}\[31m" has/);
  assert.deepEqual(hostile.ranges, []);
});

test('a stream without main memory gives no ranges and no certainty', () => {
  const map = guestMap('pc', [block('0000:00:02.0/vga.vram', MIB), block('pc.ram', 0)]);
  assert.deepEqual(map.ranges, []);
  assert.equal(guestMap('pc', [block('vga.vram', MIB)]).isCertain, false);
  assert.deepEqual(guestMap('pc', [block('vga.vram', MIB)]).warnings, [
    'no block of main memory is in the stream',
  ]);
});

test('memory that reaches up to where AMD machines have none is not certain', () => {
  assert.equal(guestMap('q35', [block('pc.ram', 900 * GIB)]).isCertain, true);
  const map = guestMap('q35', [block('pc.ram', 1024 * GIB)]);
  assert.equal(map.isCertain, false);
  assert.match(map.warnings[0] ?? '', /AMD/);
});

test('firmware of a length that cannot be covers nothing else', () => {
  const map = guestMap('pc', [
    block('pc.ram', 3.25 * GIB),
    block('pc.bios', 2 ** 49),
    block('system.flash0', GIB),
    block('system.flash1', 2 ** 49),
  ]);
  assert.deepEqual(lines(map), ['0-cfffffff pc.ram']);
});

test('every recording has a certain map that covers its main memory', () => {
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
