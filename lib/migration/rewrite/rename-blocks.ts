import { QemuFileError } from '../../contract/errors.ts';
import { quote } from '../../util/format.ts';

/**
 * Return RAM blocks with new names.
 *
 * @param renamed - New names, by their old names.
 * @throws {QemuFileError} As `checkRenaming`.
 */
export function renameBlocks<B extends { readonly name: string }>(
  blocks: readonly B[],
  renamed: ReadonlyMap<string, string>,
): B[] {
  checkRenaming(
    blocks.map(({ name }) => name),
    renamed,
  );
  return blocks.map((block) => ({ ...block, name: renamed.get(block.name) ?? block.name }));
}

/**
 * Check new names of RAM blocks.
 *
 * @param names - The names of all blocks.
 * @param renamed - New names, by their old names.
 * @throws {QemuFileError} `EINVAL` for a block that is not there, for a name that is empty or longer than 255
 *   bytes, and for a name that two blocks would have.
 */
export function checkRenaming(
  names: readonly string[],
  renamed: ReadonlyMap<string, string>,
): void {
  const refuse = (reason: string): never => {
    throw new QemuFileError('EINVAL', reason, { operation: 'renameBlocks' });
  };
  for (const [old, name] of renamed) {
    if (!names.includes(old)) {
      refuse(
        `the stream has no RAM block ${quote(old)}; its blocks are ${names.map(quote).join(', ')}`,
      );
    }
    const bytes = Buffer.byteLength(name);
    if (bytes === 0 || bytes > 255) refuse(`a block name of ${bytes} bytes, not 1 to 255`);
  }
  const after = names.map((name) => renamed.get(name) ?? name);
  const twice = after.find((name, index) => after.indexOf(name) !== index);
  if (twice !== undefined) refuse(`two RAM blocks would have the name ${quote(twice)}`);
}
