import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { open } from 'node:fs/promises';
import { abortError, toQemuFileError } from '../../contract/errors.ts';
import { PRIVATE_MODE, SparseFile } from '../../extract/sparse-file.ts';
import type { PageSource } from '../../migration/page-source/page-source.ts';

/** Bytes that are read, hashed and written at a time. */
const CHUNK_BYTES = 1_048_576;
/** Bytes after which other work of the process gets a turn. */
const TURN_BYTES = 33_554_432;

const ZEROS = Buffer.alloc(CHUNK_BYTES);

/** Options of `writeRamFile`. */
export interface RamFileOptions {
  /** Called with the number of bytes that were dealt with since the last call. */
  readonly onProgress?: ((bytes: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Write the contents of a block to a new file, mode 0600, with holes for pages of zeros, and sync it.
 *
 * @param index - Index of the block.
 * @returns The SHA-256 of the file, 64 hexadecimal digits.
 * @throws {QemuFileError} (rejects) The system's own code, such as `ENOSPC`; `ECANCELED`; the errors of the pages.
 */
export async function writeRamFile(
  pages: PageSource,
  index: number,
  path: string,
  options: RamFileOptions,
): Promise<string> {
  const length = pages.blocks[index]?.usedLength ?? 0;
  const { O_CREAT, O_EXCL, O_RDWR } = fs.constants;
  let fd: number;
  try {
    fd = fs.openSync(path, O_RDWR | O_CREAT | O_EXCL, PRIVATE_MODE);
  } catch (error) {
    throw toQemuFileError(error, { operation: 'makeTemplate' });
  }
  const file = new SparseFile(fd, path);
  try {
    const writer = new RamFileWriter(pages, index, file, options);
    for (const { at, length: bytes } of pages.extents(index)) await writer.copy(at, at + bytes);
    await writer.skip(length);
    file.truncate(length);
    fs.fsyncSync(fd);
    return writer.digest();
  } finally {
    file.close();
  }
}

class RamFileWriter {
  readonly #pages: PageSource;
  readonly #index: number;
  readonly #file: SparseFile;
  readonly #options: RamFileOptions;
  readonly #hash = createHash('sha256');
  readonly #buffer = Buffer.alloc(CHUNK_BYTES);
  #at = 0;
  #sinceTurn = 0;

  constructor(pages: PageSource, index: number, file: SparseFile, options: RamFileOptions) {
    this.#pages = pages;
    this.#index = index;
    this.#file = file;
    this.#options = options;
  }

  digest(): string {
    return this.#hash.digest('hex');
  }

  /** Leave a hole up to a position. */
  async skip(end: number): Promise<void> {
    while (this.#at < end) {
      const size = Math.min(CHUNK_BYTES, end - this.#at);
      this.#hash.update(ZEROS.subarray(0, size));
      await this.#advance(size);
    }
  }

  /** Copy the bytes of the block from `at` to `end`. */
  async copy(at: number, end: number): Promise<void> {
    await this.skip(at);
    while (this.#at < end) {
      const bytes = this.#buffer.subarray(0, Math.min(CHUNK_BYTES, end - this.#at));
      const reading = this.#pages.read(this.#index, this.#at, bytes);
      if (reading !== undefined) await reading;
      this.#hash.update(bytes);
      this.#write(bytes);
      await this.#advance(bytes.length);
    }
  }

  /** Write the pages that are not zeros. */
  #write(bytes: Buffer): void {
    const { pageSize } = this.#pages;
    for (let from = 0; from < bytes.length; ) {
      let end = from;
      while (end < bytes.length && !isZero(bytes, end, pageSize)) end += pageSize;
      if (end > from) this.#file.write(this.#at + from, bytes.subarray(from, end));
      from = end + pageSize;
    }
  }

  async #advance(bytes: number): Promise<void> {
    this.#at += bytes;
    this.#sinceTurn += bytes;
    if (this.#sinceTurn < TURN_BYTES) return;
    const { onProgress, signal } = this.#options;
    onProgress?.(this.#sinceTurn);
    this.#sinceTurn = 0;
    await new Promise(setImmediate);
    if (signal?.aborted) throw abortError(signal, 'makeTemplate');
  }
}

function isZero(bytes: Buffer, at: number, length: number): boolean {
  return bytes.compare(ZEROS, 0, length, at, at + length) === 0;
}

/**
 * Return the SHA-256 of a file, 64 hexadecimal digits.
 *
 * @throws {QemuFileError} (rejects) The system's own code; `ECANCELED`.
 */
export async function digestFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  try {
    await using file = await open(path, 'r');
    const buffer = Buffer.alloc(CHUNK_BYTES);
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length);
      if (bytesRead === 0) return hash.digest('hex');
      hash.update(buffer.subarray(0, bytesRead));
      if (signal?.aborted) throw abortError(signal, 'digestFile');
    }
  } catch (error) {
    throw toQemuFileError(error, { operation: 'digestFile' });
  }
}
