import { type Capabilities, queryCapabilities } from '../migration-settings.ts';
import { ifSupported } from '../qmp/if-supported.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';

/** A RAM block of a destination. */
export interface DestinationBlock {
  readonly name: string;
  /** Bytes in use. */
  readonly usedLength: number;
  /** Bytes up to which QEMU can resize the block; equal to `usedLength` for most blocks. */
  readonly maxLength: number;
  /** Bytes of the host's pages that back the block. */
  readonly hostPageSize: number;
}

/** A PCI device on the root bus of a destination. */
export interface PciDevice {
  /** QEMU's name of the device, such as `virtio-net-pci`. */
  readonly driver: string;
  /** The `id=` of the command line; empty if there is none. */
  readonly id: string;
  /** Slot and function, such as `03.0`. */
  readonly address: string;
}

/** Facts that a running QEMU reports about itself; null if it cannot be queried. */
export interface DestinationFacts {
  /** Machine type, such as `pc-i440fx-7.2`. */
  readonly machine: string | null;
  readonly blocks: readonly DestinationBlock[] | null;
  /** Devices on the root bus; null if the machine has no PCI bus. */
  readonly pciDevices: readonly PciDevice[] | null;
  /** Indexes of the CPUs. */
  readonly cpus: readonly number[] | null;
  /** Names of the migration capabilities that this QEMU knows. */
  readonly capabilities: readonly string[] | null;
}

/**
 * Query a QEMU for what a stream can be compared with. Nothing is changed.
 *
 * @param asked - Its capabilities, if they were asked for already.
 * @throws {QemuFileError} (rejects) as `QmpClient.execute`, except that a refused command is not an error.
 */
export async function readDestinationFacts(
  qmp: QmpClient,
  asked: Promise<Capabilities> = queryCapabilities(qmp),
): Promise<DestinationFacts> {
  const [type, blocks, tree, cpus, capabilities] = await Promise.all([
    ifSupported(qmp.execute<unknown>('qom-get', { path: '/machine', property: 'type' })),
    ifSupported(readMonitor(qmp, 'info ramblock')),
    ifSupported(readMonitor(qmp, 'info qtree')),
    ifSupported(qmp.execute<readonly { readonly 'cpu-index': number }[]>('query-cpus-fast')),
    ifSupported(asked),
  ]);
  return {
    machine: typeof type === 'string' ? type.replace(/-machine$/, '') : null,
    blocks: blocks === null ? null : parseRamBlocks(blocks),
    pciDevices: tree === null ? null : parseRootPciDevices(tree),
    cpus: cpus?.map((cpu) => cpu['cpu-index']) ?? null,
    capabilities: capabilities === null ? null : Object.keys(capabilities),
  };
}

function readMonitor(qmp: QmpClient, commandLine: string): Promise<string> {
  return qmp.execute<string>('human-monitor-command', { 'command-line': commandLine });
}

const UNITS: Readonly<Record<string, number>> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

const BLOCK_LINE =
  /^\s*(\S+)\s+(\d+) (\w+)\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)(?:\s+0x[0-9a-f]+\s+\w+)?\s*$/;

/**
 * Parse the output of `info ramblock`; null if it does not have the expected form.
 *
 * @see QEMU `ram_block_format` in softmmu/physmem.c (7.2), system/physmem.c (10.0, with the columns HVA and RO)
 */
export function parseRamBlocks(text: string): DestinationBlock[] | null {
  const [head = '', ...lines] = text.split(/\r?\n/).filter((line) => line.trim() !== '');
  if (!/Block Name\s+PSize\s+Offset\s+Used\s+Total/.test(head)) return null;
  const blocks: DestinationBlock[] = [];
  for (const line of lines) {
    const [, name, size, unit = '', used, total] = BLOCK_LINE.exec(line) ?? [];
    const unitBytes = UNITS[unit];
    if (name === undefined || unitBytes === undefined) return null;
    blocks.push({
      name,
      usedLength: Number.parseInt(used as string, 16),
      maxLength: Number.parseInt(total as string, 16),
      hostPageSize: Number(size) * unitBytes,
    });
  }
  return blocks.length === 0 ? null : blocks;
}

/** Parse the PCI devices on the root bus from the output of `info qtree`; null without such a bus. */
export function parseRootPciDevices(text: string): PciDevice[] | null {
  const devices: PciDevice[] = [];
  let rootIndent = -1;
  let hasRoot = false;
  let device: { driver: string; id: string; indent: number } | undefined;
  for (const line of text.split(/\r?\n/)) {
    const indent = line.search(/\S/);
    if (indent < 0) continue;
    if (indent <= rootIndent) rootIndent = -1;
    const [, bus] = /^\s*bus: (\S+)/.exec(line) ?? [];
    if (rootIndent < 0 && bus !== undefined && /^pcie?\.0$/.test(bus)) {
      rootIndent = indent;
      hasRoot = true;
      device = undefined;
      continue;
    }
    if (rootIndent < 0) continue;
    const [, driver, id] = /^\s*dev: ([^,\s]+), id "(.*)"/.exec(line) ?? [];
    if (driver !== undefined && indent === rootIndent + 2) {
      device = { driver, id: id as string, indent };
    }
    const [, address] = /^\s*addr = ([0-9a-f]{2}\.[0-7])/.exec(line) ?? [];
    if (address !== undefined && device !== undefined && indent === device.indent + 2) {
      devices.push({ driver: device.driver, id: device.id, address });
    }
  }
  return hasRoot ? devices : null;
}
