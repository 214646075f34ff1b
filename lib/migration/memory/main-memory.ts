import { quote } from '../../util/format.ts';

/** A RAM block, as far as its layout is concerned. */
export interface SizedBlock {
  readonly name: string;
  readonly usedLength: number;
}

/** The blocks of main memory in the order of their addresses, or the reason why they are not known. */
export type MainMemory =
  | { readonly blocks: readonly SizedBlock[]; readonly warning?: string }
  | { readonly blocks: null; readonly reason: string };

const ORDER_HINT = 'give their order with --nodes NAME,NAME';

function sum(blocks: readonly SizedBlock[]): number {
  return blocks.reduce((total, { usedLength }) => total + usedLength, 0);
}

/**
 * Find the blocks of main memory: the block of the board's own name, or the memory backends of NUMA nodes in
 * the order of their numbers, or the only block that it can be.
 *
 * @param name - The board's name for the block; undefined if the board is unknown.
 * @param candidates - The blocks that do not belong to a device.
 * @param total - Bytes of main memory, where the stream reports them: it distinguishes nodes from hotplugged memory.
 */
export function findMainMemory(
  name: string | undefined,
  candidates: readonly SizedBlock[],
  total: number | null,
): MainMemory {
  const named = candidates.find((block) => block.name === name);
  if (named !== undefined) return { blocks: [named] };
  const [first] = candidates;
  if (first === undefined)
    return { blocks: null, reason: 'the stream has no block of main memory' };
  const groups = numberedGroups(candidates);
  if (total !== null) {
    const options = [...groups, ...candidates.map((block) => [block])];
    const fitting = options.filter((blocks) => Math.abs(sum(blocks) - total) < 65_536);
    const [only] = fitting;
    if (only !== undefined && fitting.length === 1) return { blocks: only };
    if (fitting.length > 1) {
      const names = fitting.map((blocks) => blocks.map((block) => quote(block.name)).join(' + '));
      const reason = `main memory may be ${names.join(' or ')}; say which with --nodes NAME`;
      return { blocks: null, reason };
    }
  }
  if (candidates.length === 1) {
    const warning =
      name === undefined
        ? undefined
        : `no block is named ${quote(name)}: ${quote(first.name)} is used as main memory, because it is the only candidate`;
    return { blocks: [first], ...(warning === undefined ? {} : { warning }) };
  }
  // libvirt's name for the memory of a NUMA node. Other numbered names may be of hotplugged memory.
  const nodes = groups.find((blocks) => /(^|\/)ram-node\d+$/.test(blocks[0]?.name ?? ''));
  if (nodes !== undefined) return { blocks: nodes };
  const names = candidates.map((block) => quote(block.name)).join(', ');
  return {
    blocks: null,
    reason: `the order of ${names} in guest memory is unknown; ${ORDER_HINT}`,
  };
}

/** Return the blocks whose names differ in a final number only, in the order of their numbers; each prefix is a group. */
function numberedGroups(blocks: readonly SizedBlock[]): SizedBlock[][] {
  const groups = new Map<string, { number: number; block: SizedBlock }[]>();
  for (const block of blocks) {
    const [, prefix, digits] = /^(.*?)(\d{1,4})$/.exec(block.name) ?? [];
    if (prefix === undefined) continue;
    const group = groups.get(prefix) ?? [];
    group.push({ number: Number(digits), block });
    groups.set(prefix, group);
  }
  return [...groups.values()]
    .filter((group) => group.length > 1)
    .map((group) => group.sort((a, b) => a.number - b.number).map(({ block }) => block));
}
