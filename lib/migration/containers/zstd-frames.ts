/*
 * Finds the ends of zstd frames in compressed data: the zstd decompressor of Node.js 22 reports no error where its
 * input ends inside a frame.
 *
 * @see RFC 8878, section 3.1
 */

const FRAME_MAGIC = 0xfd2fb528;
const MAGIC_BYTES = 4;
const SKIPPABLE_SIZE_BYTES = 4;
const BLOCK_HEADER_BYTES = 3;
const CHECKSUM_BYTES = 4;

const DICTIONARY_ID_BYTES = [0, 1, 2, 4];
const CONTENT_SIZE_BYTES = [0, 2, 4, 8];

const RLE_BLOCK = 1;

type Field = 'magic' | 'skippable size' | 'descriptor' | 'block header';

/** Follows zstd frames through chunks. Its results mean nothing for data that is damaged: the decompressor fails there. */
export class ZstdFrames {
  /** The field that comes after the bytes to skip. */
  #field: Field = 'magic';
  #fieldBytes = MAGIC_BYTES;
  #skipBytes = 0;
  #value = 0;
  #valueBytes = 0;
  #hasChecksum = false;

  /** Whether the bytes up to here are whole frames. */
  get isWhole(): boolean {
    return this.#field === 'magic' && this.#skipBytes === 0 && this.#valueBytes === 0;
  }

  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#skipBytes > 0) {
        const skipped = Math.min(this.#skipBytes, chunk.length - at);
        this.#skipBytes -= skipped;
        at += skipped;
        continue;
      }
      this.#value += (chunk[at++] as number) * 2 ** (8 * this.#valueBytes);
      if (++this.#valueBytes < this.#fieldBytes) continue;
      const value = this.#value;
      this.#value = 0;
      this.#valueBytes = 0;
      this.#take(value);
    }
  }

  #take(value: number): void {
    switch (this.#field) {
      case 'magic':
        if (value === FRAME_MAGIC) this.#expect('descriptor', 1, 0);
        else this.#expect('skippable size', SKIPPABLE_SIZE_BYTES, 0);
        break;
      case 'skippable size':
        this.#expect('magic', MAGIC_BYTES, value);
        break;
      case 'descriptor':
        this.#hasChecksum = (value & 4) !== 0;
        this.#expect('block header', BLOCK_HEADER_BYTES, headerBytesAfter(value));
        break;
      case 'block header': {
        const isLast = (value & 1) !== 0;
        const bytes = ((value >> 1) & 3) === RLE_BLOCK ? 1 : value >> 3;
        if (isLast)
          this.#expect('magic', MAGIC_BYTES, bytes + (this.#hasChecksum ? CHECKSUM_BYTES : 0));
        else this.#expect('block header', BLOCK_HEADER_BYTES, bytes);
        break;
      }
    }
  }

  /** Expect a field after bytes that are skipped. */
  #expect(field: Field, fieldBytes: number, skipBytes: number): void {
    this.#field = field;
    this.#fieldBytes = fieldBytes;
    this.#skipBytes = skipBytes;
  }
}

/** Return the number of bytes of a frame header that follow its descriptor. */
function headerBytesAfter(descriptor: number): number {
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const windowBytes = isSingleSegment ? 0 : 1;
  const sizeCode = descriptor >> 6;
  const sizeBytes =
    sizeCode === 0 && isSingleSegment ? 1 : (CONTENT_SIZE_BYTES[sizeCode] as number);
  return windowBytes + (DICTIONARY_ID_BYTES[descriptor & 3] as number) + sizeBytes;
}
