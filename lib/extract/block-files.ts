import { join } from 'node:path';
import { toQemuFileError } from '../contract/errors.ts';
import type { PageVisitor, RamBlock } from '../migration/format/events.ts';
import { combineVisitors } from '../migration/memory/combine-visitors.ts';
import { RamImage } from '../migration/memory/ram-image.ts';
import { Digest, loadDigest } from '../util/digest.ts';
import { makeDirectories } from '../util/make-directories.ts';
import type { Output, Published } from './output.ts';
import { SparseOutput } from './sparse-output.ts';

/** Longest file name that is made from a block's name, before the digest. */
const MAX_FILE_NAME_LENGTH = 200;

/** Write RAM blocks to files, one for each, with holes where pages are zeros. */
export class BlockFiles implements Output {
  readonly #pathOf: (block: RamBlock) => string | null;
  readonly #files = new Map<string, { output: SparseOutput; path: string; length: number }>();
  readonly #image: RamImage;
  readonly visitor: PageVisitor;

  /** @param pathOf - Returns the path for a block, or null for a block that is not wanted. */
  constructor(pathOf: (block: RamBlock) => string | null) {
    this.#pathOf = pathOf;
    const image = new RamImage({
      store: ({ name }) => this.#files.get(name)?.output.store ?? null,
    });
    this.#image = image;
    const opener: PageVisitor = {
      blocks: async (blocks) => {
        for (const block of blocks) await this.#open(block);
      },
    };
    this.visitor = combineVisitors([opener, image]);
  }

  async #open(block: RamBlock): Promise<void> {
    const path = this.#pathOf(block);
    if (path === null || this.#files.has(block.name)) return;
    const output = await SparseOutput.create(path);
    this.#files.set(block.name, { output, path, length: block.usedLength });
  }

  async publish(): Promise<Published> {
    const paths: string[] = [];
    for (const { output, path, length } of this.#files.values()) {
      await output.publish(length);
      paths.push(path);
    }
    this.#files.clear();
    return { paths, warnings: [] };
  }

  async discard(): Promise<void> {
    this.#image.close();
    for (const { output } of this.#files.values()) await output.discard();
    this.#files.clear();
  }
}

/**
 * Write all RAM blocks to a directory, each to a file `NAME.raw`. Block names come from the stream, so
 * `fileNameOf` escapes them.
 *
 * @param directory - Created with mode 0700 if it does not exist, and so are the directories above it.
 * @throws {QemuFileError} (rejects) The system's own code.
 */
export async function blockFilesIn(directory: string): Promise<BlockFiles> {
  await loadDigest();
  try {
    await makeDirectories(directory, 0o700);
  } catch (error) {
    throw toQemuFileError(error, { operation: 'mkdir' });
  }
  return new BlockFiles(({ name }) => join(directory, `${fileNameOf(name)}.raw`));
}

/**
 * Return a file name for a text, a different one for each text: letters, digits, `.`, `_` and `-` stay,
 * except a `.` or `-` at the start. A long name is cut and gets a digest. Requires `loadDigest` to have
 * finished.
 */
export function fileNameOf(name: string): string {
  const percent = (char: string): string =>
    Array.from(Buffer.from(char), (byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');
  const escaped = name.replace(/[^A-Za-z0-9._-]/gu, percent).replace(/^[.-]/, percent);
  if (escaped.length <= MAX_FILE_NAME_LENGTH) return escaped;
  const digest = new Digest();
  digest.update(Buffer.from(name));
  return `${escaped.slice(0, MAX_FILE_NAME_LENGTH)}%${digest.hex()}`;
}
