import { QemuFileError } from '../../contract/errors.ts';
import { comparedDevices } from '../../migration/diff/compared-devices.ts';
import { findBoard } from '../../migration/memory/boards.ts';
import { isOfDevice } from '../../migration/memory/guest-map.ts';
import { readPcMemory } from '../../migration/memory/layout-facts.ts';
import { findMainMemory } from '../../migration/memory/main-memory.ts';
import type { PageSourceBlock } from '../../migration/page-source/page-source.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { quote } from '../../util/format.ts';

/** A block that a memory backend can have, because its name is that of one. */
export interface BackendBlock {
  /** Index among the guest's blocks. */
  readonly index: number;
  readonly name: string;
  readonly bytes: number;
  /** The `id=` of the backend. */
  readonly id: string;
  /** Whether the block's name is the backend's whole path, as with machine types before 4.1. */
  readonly isCanonical: boolean;
}

/** Which blocks of a guest clones map, and what they are. */
export interface MappedBlocks {
  /** The blocks of main memory in the order of their NUMA nodes. */
  readonly main: readonly BackendBlock[];
  /** The blocks that clones map, of main memory and of memory devices. */
  readonly mapped: readonly BackendBlock[];
}

/** A block name that is the `id=` of an object, or the path of the object. */
const BACKEND_NAME = /^(\/objects\/)?([A-Za-z][A-Za-z0-9._-]*)$/;

/**
 * Choose the blocks that clones map: main memory and the memory backends of devices. Blocks of ROMs and of video
 * memory stay in the stream.
 *
 * @param names - The blocks to map instead, those of main memory in the order of their NUMA nodes.
 * @throws {QemuFileError} `EINVAL` for a block that the guest does not have, or that no backend can have;
 *   `ENOTSUP` if main memory is not known, or no block can be mapped.
 */
export function chooseMappedBlocks(
  guest: SavedGuest,
  names: readonly string[] | undefined,
): MappedBlocks {
  const { blocks } = guest.pages;
  const candidates = blocks.filter(({ name }) => !isOfDevice(name));
  const chosen = names?.map((name) => find(blocks, name));
  const mapped = (chosen ?? candidates).map((block) => backendOf(blocks, block));
  if (mapped.length === 0) {
    const all = blocks.map(({ name }) => quote(name)).join(', ');
    const reason = `no RAM block of the guest is known to be main memory or a memory backend; choose with --block among ${all}`;
    throw templateError('ENOTSUP', reason);
  }
  const found = findMain(guest, candidates);
  if (found.blocks === null && chosen === undefined) {
    const reason = `${found.reason.replace('--nodes NAME,NAME', '--block NAME --block NAME')}`;
    throw templateError('ENOTSUP', reason);
  }
  const main = (found.blocks ?? chosen ?? []).map(({ name }) =>
    backendOf(blocks, find(blocks, name)),
  );
  return { main, mapped };
}

function findMain(
  guest: SavedGuest,
  candidates: readonly PageSourceBlock[],
): ReturnType<typeof findMainMemory> {
  const machine = guest.configuration?.machine ?? null;
  const { blocks } = guest.pages;
  const board = findBoard(machine, (name) => blocks.some((block) => block.name === name));
  const rtc =
    board?.isPc === true
      ? comparedDevices(guest).find(({ name }) => name === 'mc146818rtc')?.state
      : undefined;
  const pc = rtc == null ? null : readPcMemory(rtc);
  return findMainMemory(board?.ram, candidates, pc === null ? null : pc.below4G + pc.above4G);
}

function find(blocks: readonly PageSourceBlock[], name: string): PageSourceBlock {
  const block = blocks.find((each) => each.name === name);
  if (block !== undefined) return block;
  const all = blocks.map((each) => quote(each.name)).join(', ');
  throw templateError('EINVAL', `the guest has no RAM block ${quote(name)}; its blocks are ${all}`);
}

function backendOf(
  blocks: readonly PageSourceBlock[],
  { name, usedLength }: PageSourceBlock,
): BackendBlock {
  const [, prefix, id] = BACKEND_NAME.exec(name) ?? [];
  if (id === undefined) {
    const reason = `clones cannot map the RAM block ${quote(name)}: its name cannot be that of a memory backend`;
    throw templateError('EINVAL', reason);
  }
  const index = blocks.findIndex((block) => block.name === name);
  return { index, name, bytes: usedLength, id, isCanonical: prefix !== undefined };
}

/** Return an error of making a template. */
export function templateError(code: string, reason: string, cause?: unknown): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'makeTemplate', cause });
}
