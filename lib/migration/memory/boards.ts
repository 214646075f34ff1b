/*
 * Where boards have their main memory. The values are those of `info mtree -f` of QEMU 7.2 (all targets) and
 * of QEMU 10.0 (x86); `test/tables/boards.ts` compares them with the QEMUs that are installed.
 */

export const GIB = 0x4000_0000;
export const FOUR_GIB: number = 4 * GIB;
const MIB = 0x10_0000;

/** Instruction sets that an ELF core can name. */
export type Architecture = 'x86_64' | 'aarch64' | 'riscv64';

/** A part of main memory and its guest-physical address. */
export interface MainRange {
  /** Offset in main memory of the first byte. */
  readonly at: number;
  readonly address: number;
  readonly length: number;
}

/** Memory layout of a board. */
export interface Board {
  /** Null for an architecture that ELF cores do not name. */
  readonly architecture: Architecture | null;
  /** Name of the RAM block of main memory, unless the user chose another memory backend. */
  readonly ram: string;
  /**
   * Return where main memory of `size` bytes is.
   *
   * @param low - Bytes below 4 GiB, if the stream reports them; only PCs use it.
   */
  readonly layout: (size: number, low?: number) => readonly MainRange[];
  /** Yield block names of ROM and flash with their addresses. */
  readonly firmware: (sizeOf: (name: string) => number) => Iterable<readonly [string, number]>;
  /** Whether the split at 4 GiB depends on options, which the RTC's CMOS records. */
  readonly isPc: boolean;
}

function ranges(...parts: readonly (readonly [at: number, address: number, length: number])[]) {
  return parts
    .map(([at, address, length]) => ({ at, address, length }))
    .filter(({ length }) => length > 0);
}

/** Firmware of a PC ends at 4 GiB; the flash for variables is below the flash for code. */
function* pcFirmware(sizeOf: (name: string) => number): Generator<readonly [string, number]> {
  yield ['pc.bios', FOUR_GIB - sizeOf('pc.bios')];
  const code = FOUR_GIB - sizeOf('system.flash0');
  yield ['system.flash0', code];
  yield ['system.flash1', code - sizeOf('system.flash1')];
}

function pc(ram: string, lowOf: (size: number) => number): Board {
  return {
    architecture: 'x86_64',
    ram,
    isPc: true,
    firmware: pcFirmware,
    layout: (size, low = lowOf(size)) => ranges([0, 0, low], [low, FOUR_GIB, size - low]),
  };
}

function at(
  base: number,
  ram: string,
  architecture: Architecture | null = null,
  firmware: readonly (readonly [string, number])[] = [],
): Board {
  return {
    architecture,
    ram,
    isPc: false,
    firmware: () => firmware,
    layout: (size) => ranges([0, base, size]),
  };
}

function split(ram: string, low: number, highBase: number): Board {
  return {
    ...at(0, ram),
    layout: (size) => ranges([0, 0, Math.min(size, low)], [low, highBase, Math.max(0, size - low)]),
  };
}

/** @see pc_init1() of QEMU: split at 3 GiB from 3.5 GiB on */
const I440FX = pc('pc.ram', (size) => (size >= 3.5 * GIB ? 3 * GIB : size));

/** Machine types before QEMU 2.0 and `isapc` have no `gigabyte_align`: split at 3.5 GiB. */
const ISA = pc('pc.ram', (size) => Math.min(size, 3.5 * GIB));

/** @see pc_q35_init() of QEMU: split at 2 GiB from 2.75 GiB on, to leave room for PCI Express' MMCONFIG */
const Q35 = pc('pc.ram', (size) => (size >= 2.75 * GIB ? 2 * GIB : size));

const MICROVM = pc('microvm.ram', (size) => Math.min(size, 3 * GIB));

const ARM_VIRT = at(GIB, 'mach-virt.ram', 'aarch64', [
  ['virt.flash0', 0],
  ['virt.flash1', 0x400_0000],
]);

const RISCV_VIRT = at(2 * GIB, 'riscv_virt_board.ram', 'riscv64', [
  ['virt.flash0', 0x2000_0000],
  ['virt.flash1', 0x2200_0000],
]);

/** The low 256 MiB are at 0; all of memory is at 2 GiB as well. */
const MALTA: Board = {
  ...at(0, 'mips_malta.ram'),
  layout: (size) => ranges([0, 0, Math.min(size, 256 * MIB)], [0, 2 * GIB, size]),
};

/** Boards whose machine types have versions or several names. */
const PATTERNS: readonly (readonly [RegExp, Board])[] = [
  [/^(isapc|pc-i440fx-1\.\d+|pc-[01]\.\d+)$/, ISA],
  [/^(q35|pc-q35-.+)$/, Q35],
  [/^(pc|pc-i440fx-.+)$/, I440FX],
  [/^microvm$/, MICROVM],
  [/^pseries(-.+)?$/, at(0, 'ppc_spapr.ram')],
  [/^s390-ccw-virtio(-.+)?$/, at(0, 's390.ram')],
  [/^(LX|SPARC(Classic|book)|SS-(4|5|10|20|600MP)|Voyager)$/, at(0, 'sun4m.ram')],
  [/^raspi(0|1ap|2b)$/, at(0, 'ram')],
  [/^raspi(3ap|3b|4b)$/, at(0, 'ram', 'aarch64')],
  [/^powernv(8|9|10)?$/, at(0, 'pnv.ram')],
  [/^xilinx-zynq-a9$/, at(0, 'zynq.ext_ram')],
];

const ASPEED_2400 = 'palmetto-bmc quanta-q71l-bmc supermicrox11-bmc';
const ASPEED_2500 =
  'ast2500-evb ast2600-evb bletchley-bmc fby35-bmc fp5280g2-bmc fuji-bmc g220a-bmc ' +
  'qcom-dc-scm-v1-bmc qcom-firework-bmc rainier-bmc romulus-bmc sonorapass-bmc tacoma-bmc witherspoon-bmc';

/** Boards by machine type; several types may share a board. */
const NAMED: readonly (readonly [names: string, Board])[] = [
  // Arm
  [ASPEED_2400, at(GIB, 'ram')],
  [ASPEED_2500, at(2 * GIB, 'ram')],
  ['akita borzoi mainstone spitz terrier z2', at(0xa000_0000, 'pxa270.sdram')],
  ['tosa', at(0xa000_0000, 'pxa255.sdram')],
  ['collie', at(0xc000_0000, 'strongarm.sdram')],
  ['cubieboard', at(GIB, 'cubieboard.ram')],
  ['orangepi-pc', at(GIB, 'orangepi.ram')],
  ['emcraft-sf2', at(0xa000_0000, 'ddr-ram')],
  ['highbank midway', at(0, 'highbank.dram')],
  ['imx25-pdk', at(2 * GIB, 'imx25.ram')],
  ['integratorcp', at(0, 'integrator.ram')],
  ['kzm', at(2 * GIB, 'kzm.ram')],
  ['mcimx6ul-evk', at(2 * GIB, 'mcimx6ul-evk.ram')],
  ['mcimx7d-sabre', at(2 * GIB, 'mcimx7d-sabre.ram')],
  ['mps2-an385 mps2-an386 mps2-an511', at(0x2100_0000, 'mps.ram')],
  ['mps2-an500', at(0x6000_0000, 'mps.ram')],
  ['mps2-an505 mps2-an521', at(2 * GIB, 'mps.ram')],
  ['kudo-bmc mori-bmc npcm750-evb quanta-gbs-bmc quanta-gsj', at(0, 'ram')],
  ['musicpal', at(0, 'musicpal.ram')],
  ['n800 n810', at(2 * GIB, 'omap2.dram')],
  ['sabrelite', at(0x1000_0000, 'sabrelite.ram')],
  ['realview-eb realview-eb-mpcore', at(0, 'realview.highmem')],
  ['versatileab versatilepb', at(0, 'versatile.ram')],
  ['vexpress-a9', at(0x6000_0000, 'vexpress.highmem')],
  ['vexpress-a15', at(2 * GIB, 'vexpress.highmem')],
  ['xlnx-zcu102', { ...split('ddr-ram', 2 * GIB, 0x8_0000_0000), architecture: 'aarch64' }],
  ['sbsa-ref', at(0x100_0000_0000, 'sbsa-ref.ram', 'aarch64')],
  // RISC-V
  ['shakti_c', at(2 * GIB, 'riscv.shakti.c.ram', 'riscv64')],
  ['sifive_u', at(2 * GIB, 'riscv.sifive.u.ram', 'riscv64')],
  ['spike', at(2 * GIB, 'riscv.spike.ram', 'riscv64')],
  // MIPS
  ['malta', MALTA],
  ['mipssim', at(0, 'mips_mipssim.ram')],
  ['magnum pica61', at(0, 'mips_jazz.ram')],
  ['fuloong2e', at(0, 'fuloong2e.ram')],
  // PowerPC
  ['mac99', at(0, 'ppc_core99.ram')],
  ['g3beige', at(0, 'ppc_heathrow.ram')],
  ['pegasos2', at(0, 'pegasos2.ram')],
  ['virtex-ml507', at(0, 'ram')],
  ['bamboo sam460ex', at(0, 'ppc4xx.sdram')],
  // SPARC, SuperH, 68000, Xtensa, MicroBlaze, OpenRISC, LoongArch
  ['sun4u sun4v', at(0, 'sun4u.ram')],
  ['r2d', at(0xc00_0000, 'r2d.sdram')],
  ['next-cube', at(0x400_0000, 'next.ram')],
  ['kc705 lx200 lx60 ml605 sim', at(0, 'xtensa.sysram0')],
  ['kc705-nommu lx200-nommu lx60-nommu ml605-nommu', at(0x6000_0000, 'xtensa.sysram0')],
  ['petalogix-ml605', at(0x5000_0000, 'petalogix_ml605.ram')],
  ['petalogix-s3adsp1800', at(0x9000_0000, 'petalogix_s3adsp1800.ram')],
  ['or1k-sim', at(0, 'openrisc.ram')],
];

/** Machines named "virt" of several targets; the name of the RAM block distinguishes them. */
const VIRT: readonly Board[] = [
  ARM_VIRT,
  RISCV_VIRT,
  at(0, 'm68k_virt.ram'),
  at(0, 'openrisc.ram'),
  split('loongarch.ram', 256 * MIB, 0x9000_0000),
];

const BY_NAME = new Map(
  NAMED.flatMap(([names, board]) => names.split(' ').map((name) => [name, board] as const)),
);

/**
 * Return the board of a machine type.
 *
 * @param machine - Machine type as in the stream's configuration; null if the stream has none.
 * @param hasBlock - Whether the stream has a RAM block of a name.
 */
export function findBoard(
  machine: string | null,
  hasBlock: (name: string) => boolean,
): Board | undefined {
  if (machine === null) return undefined;
  const found = PATTERNS.find(([pattern]) => pattern.test(machine))?.[1] ?? BY_NAME.get(machine);
  if (found !== undefined) return found;
  if (!/^virt(-.+)?$/.test(machine)) return undefined;
  const virt = VIRT.find(({ ram }) => hasBlock(ram));
  if (virt !== undefined) return virt;
  // The user chose the memory backend. Of the targets with flash, only Arm's `virt` has versions.
  return /^virt-\d/.test(machine) && hasBlock('virt.flash0') ? ARM_VIRT : undefined;
}
