import { quote } from '../../util/format.ts';

const GIB = 0x4000_0000;
const FOUR_GIB = 4 * GIB;

/** Above this, QEMU 7.1 and later may move memory to 1 TiB, out of the way of AMD's HyperTransport. */
const AMD_SAFE_END = 980 * GIB;

/** Instruction sets of guests whose memory map is known. */
export type Architecture = 'x86_64' | 'aarch64' | 'riscv64';

/** Part of a RAM block, and where the guest sees it. */
export interface GuestRange {
  /** Name of the block. */
  readonly block: string;
  /** Offset of the first byte in the block. */
  readonly at: number;
  /** Guest-physical address of the first byte. */
  readonly address: number;
  readonly length: number;
}

/** Where the blocks of a stream lie in guest-physical space. */
export interface GuestMap {
  /** Null where the machine is not known. */
  readonly architecture: Architecture | null;
  /** By ascending address; they do not overlap. */
  readonly ranges: readonly GuestRange[];
  /**
   * Whether that is how QEMU lays out such a machine. Not in a stream, and not heeded: the machine option
   * `max-ram-below-4g`.
   */
  readonly isCertain: boolean;
  /** What a person should know, as clauses without a full stop: what was guessed, and what has no place. */
  readonly warnings: readonly string[];
}

type Block = { readonly name: string; readonly usedLength: number };

interface Machine {
  readonly architecture: Architecture;
  /** Name of the block of main memory, unless the user gave it another one. */
  readonly ram: string;
  /** Address of the first byte of main memory. */
  readonly base: number;
  /** Bytes of main memory of a size that are below 4 GiB; the rest is from 4 GiB on. Default: all. */
  readonly low?: (size: number) => number;
  /** Where ROM and flash are. */
  readonly firmware: (find: (name: string) => number) => Iterable<readonly [string, number]>;
}

/** Firmware of a PC: it ends at 4 GiB, flash for variables comes below. */
function* pcFirmware(find: (name: string) => number): Generator<readonly [string, number]> {
  yield ['pc.bios', FOUR_GIB - find('pc.bios')];
  const code = FOUR_GIB - find('system.flash0');
  yield ['system.flash0', code];
  yield ['system.flash1', code - find('system.flash1')];
}

const pc = { architecture: 'x86_64', ram: 'pc.ram', base: 0, firmware: pcFirmware } as const;

/** From 3.5 GiB on, memory is split at 3 GiB, and the PCI hole begins there. */
const I440FX: Machine = { ...pc, low: (size) => (size >= 3.5 * GIB ? 3 * GIB : size) };

/** The same before QEMU 2.0, and without PCI: split at 3.5 GiB. */
const ISA: Machine = { ...pc, low: (size) => Math.min(size, 3.5 * GIB) };

/** From 2.75 GiB on, memory is split at 2 GiB: the hole has room for PCI Express' configuration space. */
const Q35: Machine = { ...pc, low: (size) => (size >= 2.75 * GIB ? 2 * GIB : size) };

const MICROVM: Machine = { ...pc, ram: 'microvm.ram', low: (size) => Math.min(size, 3 * GIB) };

const ARM_VIRT: Machine = {
  architecture: 'aarch64',
  ram: 'mach-virt.ram',
  base: GIB,
  firmware: () => [
    ['virt.flash0', 0],
    ['virt.flash1', 0x400_0000],
  ],
};

const RISCV_VIRT: Machine = {
  architecture: 'riscv64',
  ram: 'riscv_virt_board.ram',
  base: 2 * GIB,
  firmware: () => [
    ['virt.flash0', 0x2000_0000],
    ['virt.flash1', 0x2200_0000],
  ],
};

/** Machine types by name, as QEMU and distributions give them: `pc-q35-7.2`, `pc-i440fx-rhel7.6.0`. */
const MACHINES: readonly (readonly [RegExp, Machine])[] = [
  [/^(isapc|pc-i440fx-1\.\d+|pc-[01]\.\d+)$/, ISA],
  [/^(q35|pc-q35-.+)$/, Q35],
  [/^(pc|pc-i440fx-.+)$/, I440FX],
  [/^microvm$/, MICROVM],
];

/**
 * Tells where main memory and firmware lie in guest-physical space, by machine type.
 *
 * What is below 1 MiB is main memory throughout, as after the firmware has copied itself there: the VGA
 * window and ROMs that may lie over it are left out. Memory of PCI devices is wherever the guest has put
 * it, and hotplugged memory wherever there was room: neither has a place here.
 *
 * @param machine - Machine type, such as `pc-i440fx-7.2`; null if the stream does not say.
 * @param blocks - All blocks of the stream.
 * @example
 * ```js
 * guestMap('q35', [{ name: 'pc.ram', usedLength: 4 * 2 ** 30 }]).ranges;
 * // pc.ram: 2 GiB at 0, 2 GiB at 0x100000000
 * ```
 */
export function guestMap(machine: string | null, blocks: readonly Block[]): GuestMap {
  const warnings: string[] = [];
  const known = findMachine(machine, blocks);
  if (known === undefined) {
    warnings.push(
      `it is not known where ${machine === null ? 'a machine without a name' : `a machine ${quote(machine)}`} has its memory: it is put at address 0`,
    );
  }
  const ram = mainMemory(known?.ram, blocks, warnings);
  const ranges: GuestRange[] = ram === undefined ? [] : split(ram.block, known);
  if (known !== undefined) addFirmware(ranges, known, blocks);
  ranges.sort((a, b) => a.address - b.address);
  let isCertain = known !== undefined && (ram?.certain ?? false);
  const end = ranges.at(-1);
  if (known?.low !== undefined && end !== undefined && end.address + end.length > AMD_SAFE_END) {
    isCertain = false;
    warnings.push('with an AMD processor, memory above 4 GiB may begin at 1 TiB instead');
  }
  for (const { name } of blocks) {
    if (!isOfDevice(name) && !ranges.some((range) => range.block === name)) {
      warnings.push(`the stream does not say where ${quote(name)} is: it is left out`);
    }
  }
  return { architecture: known?.architecture ?? null, ranges, isCertain, warnings };
}

function findMachine(machine: string | null, blocks: readonly Block[]): Machine | undefined {
  const known = MACHINES.find(([pattern]) => machine !== null && pattern.test(machine));
  if (known !== undefined) return known[1];
  // Several targets have a machine "virt", which what they call their memory tells apart.
  const has = (name: string): boolean => blocks.some((block) => block.name === name);
  for (const virt of [ARM_VIRT, RISCV_VIRT]) if (has(virt.ram)) return virt;
  // Where the user has named it: of those with flash, only Arm's has versions.
  return /^virt-\d/.test(machine ?? '') && has('virt.flash0') ? ARM_VIRT : undefined;
}

/** Finds the block of main memory: by its name, or as the largest that is no device's. */
function mainMemory(
  name: string | undefined,
  blocks: readonly Block[],
  warnings: string[],
): { block: Block; certain: boolean } | undefined {
  const named = blocks.find((block) => block.name === name);
  if (named !== undefined) return { block: named, certain: true };
  const candidates = blocks.filter((block) => !isOfDevice(block.name));
  const [first, ...others] = candidates;
  if (first === undefined) {
    warnings.push('no block of main memory is in the stream');
    return undefined;
  }
  const block = others.reduce((a, b) => (b.usedLength > a.usedLength ? b : a), first);
  if (name !== undefined) {
    const which = others.length === 0 ? 'the only block it can be' : 'the largest it can be';
    warnings.push(
      `no block is named ${quote(name)}: ${quote(block.name)} is taken for it, ${which}`,
    );
  }
  return { block, certain: others.length === 0 };
}

function split(block: Block, machine: Machine | undefined): GuestRange[] {
  const { name, usedLength: size } = block;
  const base = machine?.base ?? 0;
  const low = machine?.low?.(size) ?? size;
  const ranges = [{ block: name, at: 0, address: base, length: low }];
  if (low < size) ranges.push({ block: name, at: low, address: FOUR_GIB, length: size - low });
  return ranges.filter(({ length }) => length > 0);
}

function addFirmware(ranges: GuestRange[], machine: Machine, blocks: readonly Block[]): void {
  const lengthOf = (name: string): number =>
    blocks.find((block) => block.name === name)?.usedLength ?? 0;
  for (const [block, address] of machine.firmware(lengthOf)) {
    const end = address + lengthOf(block);
    // A length that QEMU would not have given it is no reason to cover something else.
    const isFree = ranges.every(
      (range) => end <= range.address || address >= range.address + range.length,
    );
    if (end > address && address >= 0 && isFree) {
      ranges.push({ block, at: 0, address, length: end - address });
    }
  }
}

/** Blocks of devices and of the machine itself; all others are memory the user made. */
function isOfDevice(name: string): boolean {
  return (
    /^(\/rom@|[0-9a-f]{4}:[0-9a-f]{2}:|system\.flash|virt\.flash|isa-bios$)/.test(name) ||
    /\.(rom|mrom|vram|bios)$/.test(name)
  );
}
