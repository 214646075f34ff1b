import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { fileNameOf } from '../../extract/block-files.ts';
import { loadDigest } from '../../util/digest.ts';

/** Value of `format` in a `template.json`. */
const FORMAT = 'qemu-file-template';

/** Most bytes of a `template.json`. */
const MAX_BYTES = 16_777_216;

/** Names of the files of a template. */
export const TEMPLATE_FILES = {
  description: 'template.json',
  state: 'state.mig',
  ram: 'ram',
} as const;

/** A RAM block of a template, which clones map from a file. */
export interface TemplateBlock {
  /** Name of the RAM block. */
  readonly name: string;
  /** Name of the memory backend (`id=`) that has the block. */
  readonly id: string;
  /** Bytes of the block and of its file. */
  readonly bytes: number;
  /** SHA-256 of the file, 64 hexadecimal digits. */
  readonly sha256: string;
}

/** Contents of a `template.json`. */
export interface Template {
  /** Machine type, such as `pc-i440fx-7.2`. */
  readonly machine: string;
  /** The oldest QEMU that has the machine type, such as `7.2`; null if its name has no version. */
  readonly qemuVersion: string | null;
  readonly blocks: readonly TemplateBlock[];
  /** The stream of everything else. */
  readonly state: { readonly bytes: number; readonly sha256: string };
  /** Command-line arguments of a clone, with the paths at which the template was made. */
  readonly arguments: readonly string[];
}

/** Return the path of a block's file. Requires `loadDigest` to have finished. */
export function blockPath(directory: string, name: string): string {
  return join(directory, TEMPLATE_FILES.ram, fileNameOf(name));
}

/** Return the text of a `template.json`. */
export function templateText(template: Template): string {
  return `${JSON.stringify({ format: FORMAT, version: 1, ...template }, null, 2)}\n`;
}

/**
 * Read and check the `template.json` of a directory.
 *
 * @throws {QemuFileError} (rejects) `EBADMSG` for a file of another format or version; the system's own code.
 */
export async function readTemplate(directory: string): Promise<Template> {
  await loadDigest();
  const path = join(directory, TEMPLATE_FILES.description);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw toQemuFileError(error, { operation: 'readTemplate' });
  }
  const template = text.length > MAX_BYTES ? null : parseTemplate(text);
  if (template !== null) return template;
  const reason = `${path} is not the description of a template that this version knows: make the template again`;
  throw new QemuFileError('EBADMSG', reason, { operation: 'readTemplate' });
}

/** Return the template that a text describes; null if it does not describe one. */
function parseTemplate(text: string): Template | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isObject(value) || value.format !== FORMAT || value.version !== 1) return null;
  const { machine, qemuVersion, blocks, state } = value;
  const isSound =
    typeof machine === 'string' &&
    (qemuVersion === null || typeof qemuVersion === 'string') &&
    isDigested(state) &&
    Array.isArray(blocks) &&
    blocks.length > 0 &&
    blocks.every(isBlock) &&
    Array.isArray(value.arguments) &&
    value.arguments.every((argument) => typeof argument === 'string');
  return isSound ? (value as unknown as Template) : null;
}

function isBlock(value: unknown): boolean {
  return isDigested(value) && typeof value.name === 'string' && typeof value.id === 'string';
}

function isDigested(value: unknown): value is Record<string, unknown> {
  return (
    isObject(value) &&
    Number.isSafeInteger(value.bytes) &&
    typeof value.sha256 === 'string' &&
    /^[0-9a-f]{64}$/.test(value.sha256)
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
