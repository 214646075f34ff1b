import { abortError } from '../../contract/errors.ts';
import type { PageSource } from '../memory/page-source.ts';
import type { MigrationWriter } from './migration-writer.ts';

/** Bytes that are read from the source at a time. */
const CHUNK_BYTES = 1_048_576;
/** Most pages of zeros that are written without asking whether the file is full. */
const MAX_ZERO_RUN = 16_384;

/** Copies pages of a source to a writer, pages of zeros as ZERO records, through buffers that are used again. */
export class PageCopier {
  readonly #pages: PageSource;
  readonly #writer: MigrationWriter;
  readonly #signal: AbortSignal | undefined;
  readonly #free: Buffer[] = [];
  readonly #zeroPage: Buffer;

  constructor(pages: PageSource, writer: MigrationWriter, signal: AbortSignal | undefined) {
    this.#pages = pages;
    this.#writer = writer;
    this.#signal = signal;
    this.#zeroPage = Buffer.alloc(pages.pageSize);
  }

  /** Write zeros from byte `at` to byte `end` of a block. */
  async zeros(block: number, at: number, end: number): Promise<void> {
    const { pageSize } = this.#pages;
    for (let from = at; from < end; ) {
      const count = Math.min((end - from) / pageSize, MAX_ZERO_RUN);
      this.#writer.ram.zero(block, from, count);
      from += count * pageSize;
      await this.#ready();
    }
  }

  /** Write the contents of a block from byte `at`. */
  async copy(block: number, at: number, length: number): Promise<void> {
    for (let done = 0; done < length; ) {
      const take = Math.min(CHUNK_BYTES, length - done);
      const buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES);
      const target = take === CHUNK_BYTES ? buffer : buffer.subarray(0, take);
      const reading = this.#pages.read(block, at + done, target);
      if (reading !== undefined) await reading;
      this.#write(block, at + done, target, buffer);
      done += take;
      await this.#ready();
    }
  }

  /** Write pages in runs: of zeros, and of others by reference. */
  #write(block: number, offset: number, bytes: Buffer, buffer: Buffer): void {
    const { ram } = this.#writer;
    const { pageSize } = this.#pages;
    const { length } = bytes;
    let references = 1;
    const release = (): void => {
      references -= 1;
      if (references === 0) this.#free.push(buffer);
    };
    let from = 0;
    while (from < length) {
      const isZero = this.#isZero(bytes, from);
      let end = from + pageSize;
      while (end < length && this.#isZero(bytes, end) === isZero) end += pageSize;
      if (isZero) {
        ram.zero(block, offset + from, (end - from) / pageSize);
      } else {
        references += 1;
        ram.pageAsync(block, offset + from, bytes.subarray(from, end), release);
      }
      from = end;
    }
    release();
  }

  #isZero(bytes: Buffer, at: number): boolean {
    return (
      bytes.compare(this.#zeroPage, 0, this.#pages.pageSize, at, at + this.#pages.pageSize) === 0
    );
  }

  /** Wait until the file takes more. */
  async #ready(): Promise<void> {
    const signal = this.#signal;
    if (signal?.aborted) throw abortError(signal, 'writeSavedGuest');
    const { file } = this.#writer;
    if (file.rateLimitExceeded()) await file.drain({ signal });
  }
}
