import type { BackendBlock, MappedBlocks } from './mapped-blocks.ts';

const MIB = 1_048_576;
const KIB = 1024;

/**
 * Return the command-line arguments of a clone: machine, size of memory, memory backends and NUMA nodes.
 *
 * @param machine - Machine type.
 * @param pathOf - Returns the absolute path of a mapped block's file.
 */
export function cloneArguments(
  machine: string,
  { main, mapped }: MappedBlocks,
  pathOf: (block: BackendBlock) => string,
): string[] {
  const isMapped = ({ name }: BackendBlock): boolean => mapped.some((each) => each.name === name);
  const [first] = main;
  const isOne = main.length === 1 && first !== undefined;
  const backend = isOne && isMapped(first) ? `,memory-backend=${first.id}` : '';
  const total = main.reduce((sum, { bytes }) => sum + bytes, 0);
  const unmapped = isOne ? [] : main.filter((block) => !isMapped(block));
  return [
    ...['-machine', `${escapeOption(machine)}${backend}`],
    ...['-m', sizeOf(total)],
    ...mapped.flatMap((block) => ['-object', fileBackend(block, pathOf(block))]),
    ...unmapped.flatMap(({ id, bytes }) => [
      '-object',
      `memory-backend-ram,id=${id},size=${sizeOf(bytes)}`,
    ]),
    ...(isOne ? [] : main.flatMap(({ id }, node) => ['-numa', `node,nodeid=${node},memdev=${id}`])),
  ];
}

function fileBackend({ id, bytes, isCanonical }: BackendBlock, path: string): string {
  return [
    `memory-backend-file,id=${id}`,
    `size=${sizeOf(bytes)}`,
    `mem-path=${escapeOption(path)}`,
    'share=off',
    // The block's name is that of the stream.
    `x-use-canonical-path-for-ramblock-id=${isCanonical ? 'on' : 'off'}`,
  ].join(',');
}

/** Return a size as QEMU reads it. */
function sizeOf(bytes: number): string {
  return bytes % MIB === 0 ? `${bytes / MIB}M` : `${bytes / KIB}K`;
}

/** Double the commas of a value, which separate options otherwise. */
function escapeOption(value: string): string {
  return value.replaceAll(',', ',,');
}
