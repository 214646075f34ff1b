import { type Stats, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { openFrom } from '../../../adapters/open.ts';
import { checkString } from '../../contract/argument-error.ts';
import { QemuFileError } from '../../contract/errors.ts';
import { quote, shellWord } from '../../util/format.ts';
import { checkQmp } from '../qmp/check-qmp.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { QmpError } from '../qmp/qmp-error.ts';
import { restoreVm } from '../restore/restore.ts';
import type { RestoreOptions, RestoreResult } from '../restore/restore-options.ts';
import {
  blockPath,
  readTemplate,
  TEMPLATE_FILES,
  type Template,
  type TemplateBlock,
} from './template-file.ts';
import { digestFile } from './write-ram-file.ts';

/** Options of `restoreTemplate`. */
export interface RestoreTemplateOptions extends Omit<RestoreOptions, 'snapshot'> {
  /** Read the whole memory of the template and compare its digests. Default false: sizes only. */
  verify?: boolean | undefined;
}

/** A memory backend, as QEMU describes it. */
interface Memdev {
  readonly id?: string;
  readonly size: number;
  readonly share?: boolean;
  readonly prealloc?: boolean;
}

/**
 * Restore a clone of a template: make a QEMU that maps the template's memory load the rest. The QEMU was started
 * with the arguments of the template and `-incoming defer`.
 *
 * @param qmp - A client of the QEMU; it stays open.
 * @param directory - The template, as `makeTemplate` made it.
 * @throws {QemuFileError} (rejects) `EBADMSG` if a file of the template is not what it was; `EINVAL` if the QEMU does not
 *   map the template's memory, or shares it for writing; the system's own code for a file that is missing; otherwise
 *   as `restoreVm`. Where the template or the mapping is wrong, QEMU still waits.
 */
export async function restoreTemplate(
  qmp: QmpClient,
  directory: string,
  options: RestoreTemplateOptions = {},
): Promise<RestoreResult> {
  checkQmp('restoreTemplate', qmp);
  checkString('restoreTemplate', 'directory', directory);
  const { verify, ...restore } = options;
  const root = resolve(directory);
  const template = await readTemplate(root);
  await checkFiles(root, template, verify === true, options.signal);
  const warnings = await checkBackends(qmp, root, template);
  const path = join(root, TEMPLATE_FILES.state);
  const result = await restoreVm(qmp, await openFrom({ scheme: 'file', path, offset: 0 }), restore);
  // The pages of the mapped blocks are not in the stream.
  const expected = template.blocks.map(({ name }) => `of RAM block ${quote(name)} `);
  const others = result.warnings.filter(
    (warning) => !(warning.endsWith('not sent') && expected.some((part) => warning.includes(part))),
  );
  return { ...result, warnings: [...warnings, ...others] };
}

/** Check that the files of a template are unchanged. */
async function checkFiles(
  root: string,
  { blocks, state }: Template,
  mustRead: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  const statePath = join(root, TEMPLATE_FILES.state);
  for (const { name, bytes, sha256 } of blocks) {
    const path = blockPath(root, name);
    checkSize(path, bytes);
    if (mustRead) await checkDigest(path, sha256, signal);
  }
  checkSize(statePath, state.bytes);
  await checkDigest(statePath, state.sha256, signal);
}

function checkSize(path: string, bytes: number): void {
  const stats = statOf(path);
  if (stats === null) throw cloneError('ENOENT', `${path} is missing: make the template again`);
  if (stats.isFile() && stats.size === bytes) return;
  throw changed(path, `it has ${stats.size} bytes instead of ${bytes}`);
}

async function checkDigest(
  path: string,
  sha256: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  if ((await digestFile(path, signal)) === sha256) return;
  throw changed(path, 'it has another SHA-256');
}

function changed(path: string, how: string): QemuFileError {
  const reason = `${path} was changed after the template was made (${how}): make the template again, and end the clones that run from it`;
  return cloneError('EBADMSG', reason);
}

/** Check that QEMU maps the template's memory, copy-on-write. */
async function checkBackends(qmp: QmpClient, root: string, template: Template): Promise<string[]> {
  const memdevs = await qmp.execute<readonly Memdev[]>('query-memdev');
  const warnings: string[] = [];
  for (const block of template.blocks) {
    const memdev = memdevs.find(({ id }) => id === block.id);
    if (memdev === undefined) {
      throw wrongBackend(template, `QEMU has no memory backend ${quote(block.id)}`);
    }
    await checkBackend(qmp, root, template, block, memdev);
    if (memdev.prealloc === true) {
      warnings.push(
        `the memory backend ${quote(block.id)} has prealloc=on, which copies the memory: this clone shares nothing`,
      );
    }
  }
  return warnings;
}

async function checkBackend(
  qmp: QmpClient,
  root: string,
  template: Template,
  { id, name, bytes }: TemplateBlock,
  memdev: Memdev,
): Promise<void> {
  const backend = `the memory backend ${quote(id)}`;
  const share = memdev.share ?? (await property(qmp, id, 'share'));
  const mapped = await property(qmp, id, 'mem-path');
  if (typeof mapped !== 'string') {
    throw wrongBackend(template, `${backend} of QEMU is not a memory-backend-file`);
  }
  const path = blockPath(root, name);
  if (!isSameFile(mapped, path)) {
    throw wrongBackend(template, `${backend} of QEMU maps ${mapped} instead of ${path}`);
  }
  if (share !== false) {
    const reason = `${backend} of QEMU has share=on: the clone would write into the template; end this QEMU, and start it with share=off`;
    throw cloneError('EINVAL', reason);
  }
  if (memdev.size !== bytes) {
    throw wrongBackend(template, `${backend} has ${memdev.size} bytes instead of ${bytes}`);
  }
}

/** Return a property of a memory backend; undefined if it has none of this name. */
async function property(qmp: QmpClient, id: string, name: string): Promise<unknown> {
  try {
    return await qmp.execute<unknown>('qom-get', { path: `/objects/${id}`, property: name });
  } catch (error) {
    if (error instanceof QmpError) return undefined;
    throw error;
  }
}

/** Return whether QEMU's path leads to a file of the template. A QEMU in a container has other paths. */
function isSameFile(mapped: string, path: string): boolean {
  if (mapped === path) return true;
  const theirs = statOf(mapped);
  const ours = statOf(path);
  return theirs !== null && ours !== null && theirs.dev === ours.dev && theirs.ino === ours.ino;
}

function statOf(path: string): Stats | null {
  return statSync(path, { throwIfNoEntry: false }) ?? null;
}

function wrongBackend(template: Template, problem: string): QemuFileError {
  const words = template.arguments.map(shellWord).join(' ');
  return cloneError('EINVAL', `${problem}; start the clone with ${words}`);
}

function cloneError(code: string, reason: string): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'restoreTemplate' });
}
