import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { openTo } from '../../../adapters/open.ts';
import { checkString } from '../../contract/argument-error.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import {
  writerOptionsOf,
  writeSavedGuest,
} from '../../migration/guest-writer/write-saved-guest.ts';
import { checkGuest } from '../../migration/saved-guest/check-guest.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import { loadDigest } from '../../util/digest.ts';
import { cloneArguments } from './clone-arguments.ts';
import { chooseMappedBlocks, type MappedBlocks, templateError } from './mapped-blocks.ts';
import {
  blockPath,
  TEMPLATE_FILES,
  type Template,
  type TemplateBlock,
  templateText,
} from './template-file.ts';
import { digestFile, writeRamFile } from './write-ram-file.ts';

/** Options of `makeTemplate`. */
export interface TemplateOptions {
  /**
   * The RAM blocks that clones map, those of main memory in the order of their NUMA nodes. Default: main memory and
   * the memory backends of devices.
   */
  blocks?: readonly string[] | undefined;
  /** Called with the number of bytes of guest memory that were written or skipped since the last call. */
  onProgress?: ((bytes: number) => void) | undefined;
  /** Aborts the work; no directory appears. */
  signal?: AbortSignal | undefined;
}

/**
 * Make a template of a saved guest: a directory from which clones start that share its memory. The directory appears
 * complete or not at all, readable for its owner only, who must be QEMU's user.
 *
 * @param guest - The guest; it stays open.
 * @param directory - An absent or empty directory.
 * @returns The contents of `template.json`, with the command-line arguments that each clone needs.
 * @throws {QemuFileError} (rejects) `EEXIST` if the directory is not empty; `EINVAL` for a block in `blocks` that the
 *   guest does not have or that no backend can have; `ENOTSUP` for a guest without a machine type, without its memory
 *   (`x-ignore-shared`) or without a block that can be mapped; `ECANCELED`; the errors of the guest's pages and the
 *   system's own, such as `ENOSPC`.
 * @example
 * ```js
 * const guest = await openSavedGuest(await unwrap(await openFrom('file:golden.mig')));
 * const template = await makeTemplate(guest, '/var/lib/golden');
 * spawn('qemu-system-x86_64', [...template.arguments, '-incoming', 'defer', '-qmp', 'unix:/run/clone.qmp,server=on,wait=off']);
 * ```
 */
export async function makeTemplate(
  guest: SavedGuest,
  directory: string,
  options: TemplateOptions = {},
): Promise<Template> {
  checkGuest('makeTemplate', 'guest', guest);
  checkString('makeTemplate', 'directory', directory);
  const machine = guest.configuration?.machine;
  if (machine === undefined) {
    throw templateError('ENOTSUP', 'the stream does not name its machine type, as before QEMU 2.4');
  }
  if (guest.configuration?.capabilities.includes('x-ignore-shared') === true) {
    const reason = 'the memory is not in the stream: it was saved with x-ignore-shared';
    throw templateError('ENOTSUP', reason);
  }
  await loadDigest();
  const blocks = chooseMappedBlocks(guest, options.blocks);
  const final = resolve(directory);
  await checkFree(final);
  const partial = join(dirname(final), `.${basename(final)}.${randomBytes(6).toString('hex')}`);
  try {
    await mkdir(partial, { mode: 0o700 });
    await mkdir(join(partial, TEMPLATE_FILES.ram), { mode: 0o700 });
    const template = await write(guest, machine, blocks, partial, final, options);
    // An empty directory is replaced, another one is an error.
    await rename(partial, final);
    await syncDirectory(dirname(final));
    return template;
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw toQemuFileError(error, { operation: 'makeTemplate' });
  }
}

/** Refuse a path at which there is something other than an empty directory. */
async function checkFree(path: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(path);
  } catch (error) {
    const failure = toQemuFileError(error, { operation: 'makeTemplate' });
    if (failure.code === 'ENOENT') return;
    throw failure.code === 'ENOTDIR'
      ? templateError('EEXIST', `${path} is not a directory`, error)
      : failure;
  }
  if (names.length > 0) throw templateError('EEXIST', `the directory ${path} is not empty`);
}

async function write(
  guest: SavedGuest,
  machine: string,
  blocks: MappedBlocks,
  partial: string,
  final: string,
  options: TemplateOptions,
): Promise<Template> {
  const digests: TemplateBlock[] = [];
  for (const { index, name, id, bytes } of blocks.mapped) {
    const sha256 = await writeRamFile(guest.pages, index, blockPath(partial, name), options);
    digests.push({ name, id, bytes, sha256 });
  }
  const state = await writeState(guest, blocks, join(partial, TEMPLATE_FILES.state), options);
  const template: Template = {
    machine,
    qemuVersion: /-(\d+\.\d+)$/.exec(machine)?.[1] ?? null,
    blocks: digests,
    state,
    arguments: cloneArguments(machine, blocks, ({ name }) => blockPath(final, name)),
  };
  await using file = await open(join(partial, TEMPLATE_FILES.description), 'wx', 0o600);
  await file.writeFile(templateText(template));
  await file.sync();
  return template;
}

/** Write the stream of everything but the mapped pages. */
async function writeState(
  guest: SavedGuest,
  { mapped }: MappedBlocks,
  path: string,
  { signal }: TemplateOptions,
): Promise<Template['state']> {
  const file = await openTo({ scheme: 'file', path, offset: 0 }, { signal });
  try {
    const writer = new MigrationWriter(file, writerOptionsOf(guest));
    const names = new Set(mapped.map(({ name }) => name));
    await writeSavedGuest(guest, writer, {
      omitPages: (name) => names.has(name),
      mustDescribe: true,
      signal,
    });
    await file.close();
    return { bytes: writer.position, sha256: await digestFile(path, signal) };
  } catch (error) {
    const failure = toQemuFileError(error, { operation: 'makeTemplate' });
    file.destroy(failure);
    await file.close().catch(() => {});
    throw failure;
  }
}

async function syncDirectory(path: string): Promise<void> {
  await using handle = await open(path, 'r');
  await handle.sync();
}
