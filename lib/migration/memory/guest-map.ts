import { QemuFileError } from '../../contract/errors.ts';
import { hex, quote } from '../../util/format.ts';
import { type Architecture, type Board, FOUR_GIB, findBoard, GIB } from './boards.ts';
import type { LayoutFacts } from './layout-facts.ts';
import { findMainMemory, type SizedBlock } from './main-memory.ts';

export type { Architecture } from './boards.ts';

/** Above this address, QEMU 7.1 and later may move memory to 1 TiB, because of AMD's HyperTransport. */
const AMD_SAFE_END = 980 * GIB;

/** A part of a RAM block and its guest-physical address. */
export interface GuestRange {
  /** Name of the block. */
  readonly block: string;
  /** Offset of the first byte in the block. */
  readonly at: number;
  /** Guest-physical address of the first byte. */
  readonly address: number;
  readonly length: number;
}

/** A block of guest memory whose address is unknown. */
export interface UnplacedBlock {
  /** Name of the block. */
  readonly block: string;
  /** Why, and what to do, as a clause without a full stop. */
  readonly reason: string;
}

/** Where the RAM blocks of a stream are in guest-physical address space. */
export interface GuestMap {
  /** Null if the machine is unknown or of another architecture. */
  readonly architecture: Architecture | null;
  /** By ascending address; they do not overlap. */
  readonly ranges: readonly GuestRange[];
  /** Whether the layout is that of QEMU for this machine and no block of guest memory is missing. */
  readonly isCertain: boolean;
  /** Blocks of guest memory without an address; blocks of video memory and ROMs are not listed. */
  readonly unplaced: readonly UnplacedBlock[];
  /** Notes for the user, as clauses without a full stop. */
  readonly warnings: readonly string[];
}

/** Further facts about the layout. */
export interface GuestMapOptions {
  /** Facts from the device state of the stream. */
  facts?: LayoutFacts | undefined;
  /** Names of the blocks of main memory in the order of their NUMA nodes. */
  nodes?: readonly string[] | undefined;
  /** Guest-physical addresses of blocks, by name; they take precedence. */
  at?: ReadonlyMap<string, number> | undefined;
}

/**
 * Return where main memory, memory devices and firmware are in guest-physical address space.
 *
 * All of main memory below 1 MiB is part of the result, as after the firmware has shadowed itself there: the
 * VGA window and ROMs that may cover it are not. Memory of other PCI devices is not part of the result.
 *
 * @param machine - Machine type such as `pc-i440fx-7.2`; null if the stream does not name it.
 * @param blocks - All RAM blocks of the stream.
 * @throws {QemuFileError} `EINVAL` if `nodes` or `at` name a block that the stream does not have, or if
 *   blocks overlap at the given addresses.
 * @example
 * ```js
 * guestMap('q35', [{ name: 'pc.ram', usedLength: 4 * 2 ** 30 }]).ranges;
 * // pc.ram: 2 GiB at 0, 2 GiB at 0x100000000
 * ```
 */
export function guestMap(
  machine: string | null,
  blocks: readonly SizedBlock[],
  options: GuestMapOptions = {},
): GuestMap {
  const mapper = new Mapper(machine, blocks, options);
  return mapper.map();
}

class Mapper {
  readonly #machine: string | null;
  readonly #blocks: readonly SizedBlock[];
  readonly #facts: LayoutFacts | undefined;
  readonly #nodes: readonly string[] | undefined;
  readonly #at: ReadonlyMap<string, number>;
  readonly #board: Board | undefined;
  readonly #ranges: GuestRange[] = [];
  readonly #unplaced: UnplacedBlock[] = [];
  readonly #warnings: string[] = [];
  #isCertain = true;

  constructor(machine: string | null, blocks: readonly SizedBlock[], options: GuestMapOptions) {
    this.#machine = machine;
    this.#blocks = blocks;
    this.#facts = options.facts;
    this.#nodes = options.nodes;
    this.#at = options.at ?? new Map();
    this.#board = findBoard(machine, (name) => blocks.some((block) => block.name === name));
    for (const name of [...this.#at.keys(), ...(this.#nodes ?? [])]) this.#find(name);
  }

  map(): GuestMap {
    this.#placeAsTold();
    const candidates: SizedBlock[] = [];
    for (const block of this.#blocks) {
      if (this.#at.has(block.name) || this.#placeOfDevice(block)) continue;
      if (!isOfDevice(block.name)) candidates.push(block);
    }
    this.#placeMain(candidates);
    const end = this.#ranges.reduce(
      (most, { address, length }) => Math.max(most, address + length),
      0,
    );
    if (this.#board?.isPc === true && end > AMD_SAFE_END) {
      this.#isCertain = false;
      this.#warnings.push('with an AMD processor, memory above 4 GiB may begin at 1 TiB instead');
    }
    this.#refuseOverlaps();
    this.#placeFirmware();
    this.#ranges.sort((a, b) => a.address - b.address);
    return {
      architecture: this.#board?.architecture ?? null,
      ranges: this.#ranges,
      isCertain: this.#isCertain && this.#unplaced.length === 0,
      unplaced: this.#unplaced,
      warnings: this.#warnings,
    };
  }

  #find(name: string): SizedBlock {
    const block = this.#blocks.find((each) => each.name === name);
    if (block !== undefined) return block;
    const names = this.#blocks.map((each) => quote(each.name)).join(', ');
    const reason = `the stream has no RAM block ${quote(name)}; its blocks are ${names}`;
    throw new QemuFileError('EINVAL', reason, { operation: 'guestMap' });
  }

  #placeAsTold(): void {
    for (const [name, address] of this.#at) {
      const { usedLength } = this.#find(name);
      this.#add(name, 0, address, usedLength);
    }
  }

  #add(block: string, at: number, address: number, length: number): void {
    if (length > 0) this.#ranges.push({ block, at, address, length });
  }

  /** Place the block of a memory device by its state; return whether the block belongs to one. */
  #placeOfDevice(block: SizedBlock): boolean {
    const place = this.#facts?.place(block);
    if (place === undefined) return false;
    const { device, address, parts } = place;
    if (address === null) {
      const reason = `the stream does not report the address of this ${device} memory; give it with --at ${block.name}=ADDRESS, as "info memory-devices" or "info mtree" of QEMU shows it`;
      this.#unplaced.push({ block: block.name, reason });
    } else if (parts.length === 0) {
      const state =
        device === 'virtio-mem' ? 'has no plugged memory' : 'is not mapped by the guest';
      this.#warnings.push(`${device} block ${quote(block.name)} ${state}: it is left out`);
    } else {
      for (const part of parts) this.#add(block.name, part.at, address + part.at, part.length);
    }
    return true;
  }

  #placeMain(candidates: readonly SizedBlock[]): void {
    const board = this.#board;
    const nodes = this.#nodes?.map((name) => this.#find(name));
    if (candidates.length === 0 && nodes === undefined) {
      if (this.#at.size === 0) {
        this.#isCertain = false;
        this.#warnings.push('the stream has no block of main memory');
      }
      return;
    }
    if (board === undefined) {
      const name = this.#machine === null ? 'without a name' : quote(this.#machine);
      for (const { name: block } of candidates) {
        const reason = `where a machine ${name} has its memory is unknown; give the address with --at ${block}=ADDRESS`;
        this.#unplaced.push({ block, reason });
      }
      return;
    }
    const pc = board.isPc ? (this.#facts?.pcMemory ?? null) : null;
    const reported = pc === null ? null : pc.below4G + pc.above4G;
    // Main memory at an address of the user's choice: what is left are memory devices.
    const [first] = board.layout(1);
    const isTold = nodes === undefined && [...this.#at.values()].includes(first?.address ?? 0);
    const found =
      nodes !== undefined ? { blocks: nodes } : findMainMemory(board.ram, candidates, reported);
    if (isTold) {
      this.#leaveOut(candidates, 0);
    } else if (found.blocks === null) {
      for (const { name } of candidates) this.#unplaced.push({ block: name, reason: found.reason });
    } else {
      if (found.warning !== undefined) this.#warnings.push(found.warning);
      const end = this.#layOut(board, found.blocks, pc);
      const main = found.blocks;
      this.#leaveOut(
        candidates.filter((block) => !main.includes(block)),
        end,
      );
    }
  }

  /** Place the blocks of main memory one after another; return the end of their addresses. */
  #layOut(
    board: Board,
    main: readonly SizedBlock[],
    pc: { below4G: number; above4G: number } | null,
  ): number {
    const total = main.reduce((sum, { usedLength }) => sum + usedLength, 0);
    let low: number | undefined;
    if (pc !== null) {
      if (Math.abs(pc.below4G + pc.above4G - total) < 65_536) {
        low = pc.above4G === 0 ? total : pc.below4G;
      } else {
        this.#isCertain = false;
        this.#warnings.push(
          `the RTC reports ${pc.below4G + pc.above4G} bytes of main memory, the blocks have ${total}: the default layout of the machine type is used`,
        );
      }
    }
    let end = 0;
    for (const range of board.layout(total, low)) {
      end = Math.max(end, range.address + range.length);
      let start = 0;
      for (const { name, usedLength } of main) {
        const from = Math.max(range.at, start);
        const to = Math.min(range.at + range.length, start + usedLength);
        if (to > from) this.#add(name, from - start, range.address + from - range.at, to - from);
        start += usedLength;
      }
    }
    return end;
  }

  /** List blocks that are not main memory: pc-dimm and nvdimm devices do not send their addresses. */
  #leaveOut(blocks: readonly SizedBlock[], end: number): void {
    const base = Math.ceil(Math.max(end, FOUR_GIB) / GIB) * GIB;
    for (const [index, { name }] of blocks.entries()) {
      const isHinted = this.#board?.isPc === true && index === 0;
      const hint = isHinted ? ` (the first such device is usually at ${hex(base)})` : '';
      const reason = `a stream does not report the address of pc-dimm or nvdimm memory; give it with --at ${name}=ADDRESS, as "info memory-devices" of QEMU shows it${hint}`;
      this.#unplaced.push({ block: name, reason });
    }
  }

  #placeFirmware(): void {
    if (this.#board === undefined) return;
    const sizeOf = (name: string): number =>
      this.#blocks.find((block) => block.name === name)?.usedLength ?? 0;
    for (const [name, address] of this.#board.firmware(sizeOf)) {
      const end = address + sizeOf(name);
      // QEMU would not have loaded firmware of such a length: RAM is not covered by it.
      const isFree = this.#ranges.every(
        (range) => end <= range.address || address >= range.address + range.length,
      );
      if (address >= 0 && isFree && !this.#at.has(name)) this.#add(name, 0, address, sizeOf(name));
    }
  }

  #refuseOverlaps(): void {
    const sorted = this.#ranges.toSorted((a, b) => a.address - b.address);
    for (const [index, range] of sorted.entries()) {
      const next = sorted[index + 1];
      if (next === undefined || range.address + range.length <= next.address) continue;
      const ends = [range, next].map(
        ({ block, address, length }) =>
          `${quote(block)} (${hex(address)} to ${hex(address + length - 1)})`,
      );
      const reason = `RAM blocks overlap in guest memory: ${ends.join(' and ')}; give other addresses with --at BLOCK=ADDRESS`;
      throw new QemuFileError('EINVAL', reason, { operation: 'guestMap' });
    }
  }
}

/** Return whether a block belongs to a device or to the machine itself; all others are memory backends. */
export function isOfDevice(name: string): boolean {
  return (
    /^(\/rom@|[0-9a-f]{4}:[0-9a-f]{2}:|system\.flash|virt\.flash|isa-bios$)/.test(name) ||
    /\.(rom|mrom|vram|bios|prom|sram|tcx\..*|macio)$/.test(name)
  );
}
