// A stream compared with a destination, without QEMU: text in, problems out.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type DestinationFacts,
  parseRamBlocks,
  parseRootPciDevices,
} from '../../../lib/vm/preflight/destination-facts.ts';
import { compareWithDestination, type StreamFacts } from '../../../lib/vm/preflight/preflight.ts';

/** As QEMU 7.2 prints it, for -M pc -m 16. */
const BLOCKS_7_2 = `              Block Name    PSize              Offset               Used              Total
                  pc.ram    4 KiB  0x0000000000000000 0x0000000001000000 0x0000000001000000
    /rom@etc/acpi/tables    4 KiB  0x00000000010c0000 0x0000000000020000 0x0000000000200000
0000:00:02.0/virtio-net-pci.rom    4 KiB  0x0000000001080000 0x0000000000040000 0x0000000000040000\r
`;
/** As QEMU 10.0 prints it. */
const BLOCKS_10_0 = `              Block Name    PSize              Offset               Used              Total                HVA  RO
             microvm.ram    4 KiB  0x0000000000000000 0x0000000001000000 0x0000000001000000 0x00007f3836400000  rw
      /rom@etc/acpi/rsdp    4 KiB  0x0000000001280000 0x0000000000001000 0x0000000000001000 0x00007f3835400000  ro
`;
const QTREE = `bus: main-system-bus
  type System
  dev: i440FX-pcihost, id ""
    bus: pci.0
      type PCI
      dev: virtio-net-pci, id "n0"
        addr = 02.0
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-net-device, id ""
            addr = 09.0
      dev: pci-bridge, id "b0"
        addr = 05.0
        bus: b0
          type PCI
          dev: e1000, id "inner"
            addr = 03.0
      dev: PIIX3, id ""
        addr = 01.0
  dev: fw_cfg_io, id ""
`;

const DESTINATION: DestinationFacts = {
  machine: 'pc-i440fx-7.2',
  blocks: parseRamBlocks(BLOCKS_7_2),
  pciDevices: parseRootPciDevices(QTREE),
  cpus: [0, 1],
  capabilities: ['events', 'multifd'],
};
const STREAM: StreamFacts = {
  machine: 'pc-i440fx-7.2',
  capabilities: [],
  blocks: [
    { name: 'pc.ram', usedLength: 16 << 20 },
    { name: '/rom@etc/acpi/tables', usedLength: 0x20000 },
    { name: '0000:00:02.0/virtio-net-pci.rom', usedLength: 0x40000 },
  ],
  sections: [
    { name: 'cpu_common', instanceId: 0 },
    { name: 'cpu_common', instanceId: 1 },
    { name: '0000:00:02.0/virtio-net', instanceId: 0 },
    { name: '0000:00:01.0/PIIX3', instanceId: 0 },
  ],
};

function problems(stream: Partial<StreamFacts>, own: Partial<DestinationFacts> = {}): string[] {
  const result = compareWithDestination({ ...STREAM, ...stream }, { ...DESTINATION, ...own });
  return result.problems.map(({ kind, message }) => `${kind}: ${message}`);
}

describe('the answers of a QEMU', () => {
  test('about RAM blocks are read in the forms of QEMU 7.2 and 10.0', () => {
    assert.deepEqual(parseRamBlocks(BLOCKS_7_2), [
      { name: 'pc.ram', usedLength: 16777216, maxLength: 16777216, hostPageSize: 4096 },
      { name: '/rom@etc/acpi/tables', usedLength: 131072, maxLength: 2097152, hostPageSize: 4096 },
      {
        name: '0000:00:02.0/virtio-net-pci.rom',
        usedLength: 262144,
        maxLength: 262144,
        hostPageSize: 4096,
      },
    ]);
    assert.deepEqual(parseRamBlocks(BLOCKS_10_0), [
      { name: 'microvm.ram', usedLength: 16777216, maxLength: 16777216, hostPageSize: 4096 },
      { name: '/rom@etc/acpi/rsdp', usedLength: 4096, maxLength: 4096, hostPageSize: 4096 },
    ]);
  });

  test('of an unknown form are not guessed at', () => {
    assert.equal(parseRamBlocks('unknown command: info ramblock'), null);
    assert.equal(parseRamBlocks(`${BLOCKS_7_2}and something else\n`), null);
    assert.equal(parseRootPciDevices('bus: main-system-bus\n  dev: virtio-mmio, id ""\n'), null);
  });

  test('about PCI devices are those of the root bus alone', () => {
    assert.deepEqual(parseRootPciDevices(QTREE), [
      { driver: 'virtio-net-pci', id: 'n0', address: '02.0' },
      { driver: 'pci-bridge', id: 'b0', address: '05.0' },
      { driver: 'PIIX3', id: '', address: '01.0' },
    ]);
  });
});

describe('a stream and a destination', () => {
  test('that agree have no problem and no warning, and omitted comparisons are listed', () => {
    const result = compareWithDestination(STREAM, DESTINATION);
    assert.deepEqual([result.problems, result.warnings], [[], []]);
    assert.ok(result.unknown.includes('CPU model and features'));
  });

  test('of other machine types name the option', () => {
    assert.deepEqual(problems({ machine: 'pc-q35-7.2' }), [
      'machine: the guest was saved on machine type "pc-q35-7.2", but this QEMU has "pc-i440fx-7.2"; start it ' +
        'with -M pc-q35-7.2',
    ]);
  });

  test('with a RAM block of another size name the option, unless QEMU resizes it', () => {
    const [ram, acpi, rom] = STREAM.blocks ?? [];
    assert.ok(ram && acpi && rom);
    assert.deepEqual(problems({ blocks: [{ ...ram, usedLength: 32 << 20 }, acpi, rom] }), [
      'ram-block: RAM block "pc.ram" has 33554432 bytes in the stream, but 16777216 in this QEMU; start it with ' +
        'the memory of the guest that was saved (-m, here 32M)',
    ]);
    assert.deepEqual(problems({ blocks: [ram, { ...acpi, usedLength: 0x200000 }, rom] }), []);
    assert.equal(problems({ blocks: [ram, { ...acpi, usedLength: 0x300000 }, rom] }).length, 1);
    // Rounded up to the pages of another host.
    assert.deepEqual(problems({ blocks: [ram, acpi, { ...rom, usedLength: 0x3f001 }] }), []);
  });

  test('with a RAM block that the destination lacks name the device', () => {
    const blocks = [{ name: '0000:00:03.0/e1000.rom', usedLength: 0x40000 }];
    const result = compareWithDestination({ ...STREAM, blocks }, DESTINATION);
    assert.match(result.problems[0]?.message ?? '', /add the PCI device at addr=03\.0/);
    assert.equal(result.warnings.length, 3);
  });

  test('whose list of RAM blocks was not read to its end has no warning about other blocks', () => {
    const blocks = STREAM.blocks?.slice(0, 1) ?? null;
    const warnings = (hasAllBlocks: boolean): string[] =>
      compareWithDestination({ ...STREAM, blocks, hasAllBlocks }, DESTINATION).warnings;
    assert.deepEqual(warnings(false), []);
    assert.match(warnings(true)[0] ?? '', /"\/rom@etc\/acpi\/tables" of this QEMU is not in/);
  });

  test('with too few CPUs name the option; more CPUs are only a warning', () => {
    assert.deepEqual(problems({}, { cpus: [0] }), [
      'cpu: the stream has 2 CPUs, but this QEMU has 1; start it with -smp 2',
    ]);
    const more = compareWithDestination(STREAM, { ...DESTINATION, cpus: [0, 1, 2] });
    assert.deepEqual(more.problems, []);
    assert.deepEqual(more.warnings, ['this QEMU has 3 CPUs, but the stream only 2']);
  });

  test('with another device in a slot, or none, name the device', () => {
    const section = (name: string): Pick<StreamFacts, 'sections'> => ({
      sections: [{ name, instanceId: 0 }],
    });
    assert.deepEqual(problems(section('0000:00:02.0/virtio-scsi')), [
      'device: device "0000:00:02.0/virtio-scsi" of the stream is "virtio-net-pci" in this QEMU; replace it with ' +
        '-device virtio-scsi-pci,addr=02.0',
    ]);
    assert.deepEqual(problems(section('0000:00:07.0/ich9_ahci')), [
      'device: device "0000:00:07.0/ich9_ahci" of the stream does not exist in this QEMU; add ' +
        '-device ich9-ahci,addr=07.0',
    ]);
    // A device whose section name is not in the table may be the right one.
    assert.deepEqual(problems(section('0000:00:01.0/something')), []);
  });

  test('that need a capability which QEMU lacks say so', () => {
    assert.match(problems({ capabilities: ['mapped-ram'] })[0] ?? '', /"mapped-ram".*newer QEMU/);
  });

  test('of which nothing is known have no problem', () => {
    const nothing = {
      machine: null,
      blocks: null,
      pciDevices: null,
      cpus: null,
      capabilities: null,
    };
    const result = compareWithDestination(STREAM, nothing);
    assert.deepEqual([result.problems, result.warnings], [[], []]);
    for (const what of ['machine type', 'RAM blocks', 'number of CPUs', 'devices']) {
      assert.ok(result.unknown.includes(what), what);
    }
  });
});
