import { printable, quote } from '../../util/format.ts';
import type { DestinationBlock, DestinationFacts } from './destination-facts.ts';

/** Facts about a stream before it is loaded. */
export interface StreamFacts {
  /** Machine type; null if the stream does not say. */
  readonly machine: string | null;
  /** Capabilities that source and destination must share. */
  readonly capabilities: readonly string[];
  /** Null if the list of blocks was not read. */
  readonly blocks: readonly { readonly name: string; readonly usedLength: number }[] | null;
  /** False: the list of blocks goes on in a part of the stream that was not read. Default true. */
  readonly hasAllBlocks?: boolean | undefined;
  /** The device sections; null if they were not read. */
  readonly sections: readonly { readonly name: string; readonly instanceId: number }[] | null;
}

/** Why QEMU would not load a stream. */
export interface PreflightProblem {
  readonly kind: 'machine' | 'capability' | 'ram-block' | 'cpu' | 'device';
  /** The difference, and the change of the command line, as a clause without a full stop. */
  readonly message: string;
}

/** Result of a comparison of a stream with a destination. */
export interface PreflightResult {
  /** Differences with which QEMU does not load the stream. */
  readonly problems: PreflightProblem[];
  /** Differences with which QEMU may load the stream. */
  readonly warnings: string[];
  /** Properties that were not compared, because neither the stream nor QMP reports them. */
  readonly unknown: string[];
}

/** Sizes are compared in units of the largest host page, because QEMU rounds them up. */
const ALIGNMENT_BYTES = 65536;

/** Differences that no comparison over QMP can find. */
const ALWAYS_UNKNOWN = [
  'CPU model and features',
  'properties of devices',
  'contents of disks',
  'versions of device sections (see --target)',
];

/** The section names of common PCI devices, in QEMU 7.2 to 10.0: driver on the command line, name in the stream. */
const PCI_SECTIONS: readonly (readonly [driver: RegExp, section: string, option: string])[] = [
  [/^virtio-net-pci/, 'virtio-net', 'virtio-net-pci'],
  [/^virtio-blk-pci/, 'virtio-blk', 'virtio-blk-pci'],
  [/^virtio-scsi-pci/, 'virtio-scsi', 'virtio-scsi-pci'],
  [/^virtio-serial-pci/, 'virtio-console', 'virtio-serial-pci'],
  [/^virtio-balloon-pci/, 'virtio-balloon', 'virtio-balloon-pci'],
  [/^virtio-rng-pci/, 'virtio-rng', 'virtio-rng-pci'],
  [/^(?:ich9-)?ahci$/, 'ich9_ahci', 'ich9-ahci'],
  [/^lsi53c/, 'lsiscsi', 'lsi53c895a'],
  [/^nvme$/, 'nvme', 'nvme'],
  [/^e1000$/, 'e1000', 'e1000'],
  [/^e1000e$/, 'e1000e', 'e1000e'],
  [/^rtl8139$/, 'rtl8139', 'rtl8139'],
];

/**
 * Compare a stream with the QEMU that is to load it. A difference is a problem only if every QEMU from 7.2 to
 * 10.0 refuses the stream because of it.
 */
export function compareWithDestination(
  stream: StreamFacts,
  destination: DestinationFacts,
): PreflightResult {
  const result: PreflightResult = { problems: [], warnings: [], unknown: [...ALWAYS_UNKNOWN] };
  compareMachine(stream, destination, result);
  compareCapabilities(stream, destination, result);
  compareBlocks(stream, destination, result);
  compareCpus(stream, destination, result);
  comparePciDevices(stream, destination, result);
  return result;
}

function compareMachine(
  { machine }: StreamFacts,
  destination: DestinationFacts,
  { problems, unknown }: PreflightResult,
): void {
  if (machine === null || destination.machine === null) unknown.unshift('machine type');
  else if (machine !== destination.machine) {
    const saved = printable(machine);
    const message = `the guest was saved on machine type "${saved}", but this QEMU has "${destination.machine}"; start it with -M ${saved}`;
    problems.push({ kind: 'machine', message });
  }
}

function compareCapabilities(
  { capabilities }: StreamFacts,
  destination: DestinationFacts,
  { problems }: PreflightResult,
): void {
  const known = destination.capabilities;
  if (known === null) return;
  for (const name of capabilities) {
    if (known.includes(name)) continue;
    const message = `the stream needs the migration capability ${quote(name)}, which this QEMU does not have; use a newer QEMU`;
    problems.push({ kind: 'capability', message });
  }
}

/** @see QEMU `parse_ramblock` in migration/ram.c, `qemu_ram_resize` in softmmu/physmem.c */
function compareBlocks(
  { blocks, hasAllBlocks = true }: StreamFacts,
  destination: DestinationFacts,
  { problems, warnings, unknown }: PreflightResult,
): void {
  if (blocks === null || destination.blocks === null) {
    unknown.unshift('RAM blocks');
    return;
  }
  const byName = new Map(destination.blocks.map((block) => [block.name, block]));
  for (const { name, usedLength } of blocks) {
    const own = byName.get(name);
    byName.delete(name);
    if (own === undefined) {
      const message = `RAM block ${quote(name)} of the stream does not exist in this QEMU; ${adviceForMissing(name)}`;
      problems.push({ kind: 'ram-block', message });
    } else if (!fits(usedLength, own)) {
      const message =
        `RAM block ${quote(name)} has ${usedLength} bytes in the stream, but ${own.usedLength} in this QEMU; ` +
        adviceForSize(name, usedLength);
      problems.push({ kind: 'ram-block', message });
    }
  }
  if (!hasAllBlocks) return;
  for (const name of byName.keys()) {
    warnings.push(`RAM block ${quote(name)} of this QEMU is not in the stream`);
  }
}

function fits(usedLength: number, { name, usedLength: own, maxLength }: DestinationBlock): boolean {
  if (aligned(usedLength) === aligned(own)) return true;
  // The blocks of ACPI tables and the like are resized; one that is at its maximum looks like one that is not.
  const isResizable = maxLength > own || name.startsWith('/rom@');
  return isResizable && aligned(usedLength) <= aligned(maxLength);
}

function aligned(length: number): number {
  return Math.ceil(length / ALIGNMENT_BYTES);
}

function adviceForMissing(name: string): string {
  const [, address] = /^[0-9a-f]{4}:00:([0-9a-f]{2}\.[0-7])\//.exec(name) ?? [];
  if (address !== undefined)
    return `add the PCI device at addr=${address} (-device …,addr=${address})`;
  if (name.endsWith('.ram')) return 'start it with the same -M and -m';
  return 'start it with the same devices and memory backends (-device, -object memory-backend-…)';
}

function adviceForSize(name: string, usedLength: number): string {
  if (/\.rom$/.test(name)) return 'give its device the same option ROM (romfile=)';
  if (name === 'pc.bios' || name === 'pc.rom' || name.startsWith('system.flash')) {
    return 'start it with the same firmware (-bios, pflash)';
  }
  if (/vram/.test(name)) return 'give its display device the same memory (vgamem_mb=, vram_size=)';
  const mebibytes = usedLength / 1_048_576;
  const size = Number.isInteger(mebibytes) ? `${mebibytes}M` : `${usedLength}B`;
  if (/\.ram$/.test(name))
    return `start it with the memory of the guest that was saved (-m, here ${size})`;
  return `give it this size (-object memory-backend-…,size=${size})`;
}

function compareCpus(
  { sections }: StreamFacts,
  { cpus }: DestinationFacts,
  { problems, warnings, unknown }: PreflightResult,
): void {
  const saved = new Set(
    sections?.filter(({ name }) => name === 'cpu_common').map(({ instanceId }) => instanceId),
  );
  if (saved.size === 0 || cpus === null) {
    unknown.unshift('number of CPUs');
    return;
  }
  const missing = [...saved].filter((index) => !cpus.includes(index));
  if (missing.length > 0) {
    const message = `the stream has ${saved.size} CPUs, but this QEMU has ${cpus.length}; start it with -smp ${saved.size}`;
    problems.push({ kind: 'cpu', message });
  } else if (cpus.length > saved.size) {
    warnings.push(`this QEMU has ${cpus.length} CPUs, but the stream only ${saved.size}`);
  }
}

function comparePciDevices(
  { sections }: StreamFacts,
  { pciDevices }: DestinationFacts,
  { problems, unknown }: PreflightResult,
): void {
  if (sections === null || pciDevices === null) {
    unknown.unshift('devices');
    return;
  }
  unknown.push('devices that are not on the PCI root bus');
  const reported = new Set<string>();
  for (const { name } of sections) {
    const [, address, section] = /^0000:00:([0-9a-f]{2}\.[0-7])\/(.+)$/.exec(name) ?? [];
    if (address === undefined || section === undefined || reported.has(address)) continue;
    const device = pciDevices.find((one) => one.address === address);
    const option = PCI_SECTIONS.find(([, known]) => known === section)?.[2];
    if (device === undefined) {
      reported.add(address);
      const what =
        option === undefined ? `-device …,addr=${address}` : `-device ${option},addr=${address}`;
      const message = `device ${quote(name)} of the stream does not exist in this QEMU; add ${what}`;
      problems.push({ kind: 'device', message });
      continue;
    }
    const own = PCI_SECTIONS.find(([driver]) => driver.test(device.driver))?.[1];
    if (option === undefined || own === undefined || own === section) continue;
    reported.add(address);
    const message =
      `device ${quote(name)} of the stream is ${quote(device.driver)} in this QEMU; replace it with ` +
      `-device ${option},addr=${address}`;
    problems.push({ kind: 'device', message });
  }
}
