/*
 * The checks that a zstd stream must pass before `fzstd` decodes it. `fzstd` trusts the sizes in a frame, so
 * it only gets frames whose window and blocks have sizes that QEMU's can have.
 *
 * @see RFC 8878, sections 3.1.1.1 (frame header) and 3.1.1.2 (blocks)
 */

/** Window of zstd's level 20, the highest that QEMU can be set to, as a power of two. */
export const MAX_WINDOW_LOG = 25;

const ZSTD_MAGIC = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd);

/** Longest frame header: magic, descriptor, window, dictionary id (4 bytes), content size (8 bytes). */
const MAX_HEADER_BYTES = 18;

const BLOCK_HEADER_BYTES = 3;
/** Most bytes that a block decodes to. */
const MAX_BLOCK_BYTES = 131_072;

const LAST_BLOCK = 1;
const RLE_BLOCK = 1;
const RESERVED_BLOCK = 3;

/**
 * Check the first payload of a channel: a frame header and whole blocks.
 *
 * @returns The same frame with the longest header there is, because `fzstd` decodes nothing before it has
 *   as many bytes.
 * @throws Error with the reason as a clause.
 */
export function checkFirstPayload(payload: Uint8Array): Uint8Array {
  const bytes = withLongHeader(payload);
  checkBlocks(bytes, MAX_HEADER_BYTES);
  return bytes;
}

/**
 * Check that bytes are whole blocks of a frame, none of them the last.
 *
 * @param from - Offset of the first block.
 * @throws Error with the reason as a clause.
 */
export function checkBlocks(bytes: Uint8Array, from: number): void {
  let at = from;
  while (at < bytes.length) {
    const low = bytes[at] as number;
    const type = (low >> 1) & 3;
    const size = (low >> 3) | ((bytes[at + 1] ?? 0) << 5) | ((bytes[at + 2] ?? 0) << 13);
    if (type === RESERVED_BLOCK || size > MAX_BLOCK_BYTES) throw new Error('invalid zstd block');
    if ((low & LAST_BLOCK) !== 0) throw new Error('the zstd frame ends in it');
    at += BLOCK_HEADER_BYTES + (type === RLE_BLOCK ? 1 : size);
  }
  if (at !== bytes.length) throw new Error('it does not end at the end of a zstd block');
}

function withLongHeader(payload: Uint8Array): Uint8Array {
  const descriptor = payload[4] ?? 0;
  const windowDescriptor = payload[5] ?? 0;
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] as number;
  const contentSizeBytes = [0, 2, 4, 8][descriptor >> 6] as number;
  const headerBytes = 6 + dictionaryBytes + contentSizeBytes;
  const isZstd = ZSTD_MAGIC.every((byte, at) => payload[at] === byte);
  if (!isZstd || payload.length < headerBytes) {
    throw new Error('it does not begin with a zstd frame');
  }
  // A single-segment frame states the size of its content, which a sender cannot know in advance.
  if (isSingleSegment || dictionaryBytes > 0 || (descriptor & 0x18) !== 0) {
    throw new Error(`unsupported zstd frame descriptor 0x${descriptor.toString(16)}`);
  }
  const windowLog = 10 + (windowDescriptor >> 3);
  if (windowLog > MAX_WINDOW_LOG || (windowLog === MAX_WINDOW_LOG && (windowDescriptor & 7) > 0)) {
    throw new Error(`its zstd window is larger than 2^${MAX_WINDOW_LOG} bytes`);
  }
  const bytes = new Uint8Array(MAX_HEADER_BYTES + payload.length - headerBytes);
  bytes.set(ZSTD_MAGIC);
  // The dictionary id is 0 in 4 bytes, the content size 0 in 8 bytes; neither is used.
  bytes[4] = 0xc3 | (descriptor & 0x04);
  bytes[5] = windowDescriptor;
  bytes.set(payload.subarray(headerBytes), MAX_HEADER_BYTES);
  return bytes;
}
