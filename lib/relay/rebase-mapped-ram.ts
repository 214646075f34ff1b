import { QemuFileError } from '../contract/errors.ts';
import { closeUnder } from '../migration/containers/decompress.ts';
import { StreamInput } from '../migration/format/stream-input.ts';
import { ITEM, LIMIT, RAM_FLAG, STREAM_MAGIC } from '../migration/format/wire.ts';
import { readConfiguration } from '../migration/reader/configuration.ts';
import { QemuFile } from '../qemu-file/qemu-file.ts';

/*
 * The offsets in a mapped-ram stream count from the start of its file, so the stream cannot be copied to
 * another offset as it is. This module copies it as QEMU would have written it there: it replaces the offsets
 * in the header of each block, and the size of the gap that aligns the pages to 1 MiB.
 *
 * @see QEMU `mapped_ram_setup_ramblock` in migration/ram.c
 */

/** Bytes in which a stream's configuration and the start of its RAM section must lie. */
const MAX_PREFIX_BYTES = 32_768;
const COPY_CHUNK_BYTES = 262_144;
const HEADER_VERSION = 1;
/** QEMU refuses pages that are not aligned to this. */
const PAGES_ALIGNMENT = 1_048_576;
/** A bitmap consists of 64-bit words. */
const WORD_BITS = 64;
const WORD_BYTES = 8;

/**
 * Return whether a stream has the capability mapped-ram. Nothing is consumed.
 *
 * @param file - Its next byte is the first one of a stream, or of anything else.
 */
export async function isMappedRam(file: QemuFile): Promise<boolean> {
  return (await findBlockList(file)) !== null;
}

/**
 * Open a mapped-ram stream as if it had been written at another offset of its file.
 *
 * @param file - Its next byte is the first one of the stream. Closing the returned file closes it.
 * @param fromOffset - Offset in bytes of the stream in the file that it comes from.
 * @param toOffset - Offset in bytes of the stream in the file that it goes to.
 * @returns A file for reading, whose bytes are `file`'s own if the stream does not have mapped-ram. Reading
 *   fails with {MigrationStreamError} `corrupt`, `truncated` or `unsupported` where the headers are wrong.
 */
export function rebaseMappedRam(file: QemuFile, fromOffset: number, toOffset: number): QemuFile {
  const chunks = rebased(file, fromOffset, toOffset);
  const result: QemuFile = new QemuFile({
    async getBuffer() {
      for (;;) {
        const { done, value } = await chunks.next();
        if (done) return 0;
        if (value.length > 0) return value;
      }
    },
    async close(error) {
      await closeUnder(file, error);
    },
  });
  file.once('close', () => {
    const reason = 'the file that the stream is read from was closed';
    if (!result.closed) result.setError(file.error ?? new QemuFileError('ECANCELED', reason));
  });
  return result;
}

async function* rebased(
  file: QemuFile,
  fromOffset: number,
  toOffset: number,
): AsyncGenerator<Uint8Array, void> {
  const list = await findBlockList(file);
  if (list === null) {
    yield* copy(file, Number.POSITIVE_INFINITY);
    return;
  }
  const input = new StreamInput(file, -file.getPosition);
  input.section = { name: 'ram', instanceId: 0, sectionId: list.sectionId };
  yield file.getBuffer(list.offset);
  /** Bytes that the new stream has more than the old one, up to here. */
  let growth = 0;
  for (let left = list.totalBytes; left > 0; ) {
    await input.need(1, "a RAM block's name");
    const nameBytes = 1 + file.peekByte(0);
    const entryBytes = nameBytes + 8 + HEADER_BYTES;
    await input.need(entryBytes, 'the mapped-ram header');
    const at = input.position + nameBytes;
    const entry = file.getBuffer(entryBytes);
    const header = readHeader(input, entry.subarray(nameBytes), at, left);
    const { usedLength, bitmapBytes, pagesAt } = header;
    if (header.bitmapAt !== fromOffset + input.position) {
      const reason = `the bitmap of a RAM block is said to be at ${header.bitmapAt} of the file`;
      throw input.error('corrupt', `${reason}, not at ${fromOffset + input.position}`, at + 20);
    }
    const gap = pagesAt - header.bitmapAt - bitmapBytes;
    if (gap < 0 || !Number.isSafeInteger(pagesAt)) {
      const reason = `the pages of a RAM block are said to be at ${pagesAt} of the file`;
      throw input.error('corrupt', reason, at + 28);
    }
    const newBitmapAt = toOffset + input.position + growth;
    const newEnd = newBitmapAt + bitmapBytes;
    const newPagesAt = Math.ceil(newEnd / PAGES_ALIGNMENT) * PAGES_ALIGNMENT;
    entry.writeBigUInt64BE(BigInt(newBitmapAt), nameBytes + 20);
    entry.writeBigUInt64BE(BigInt(newPagesAt), nameBytes + 28);
    yield entry;
    yield* copy(file, bitmapBytes);
    await input.skip(gap, 'the gap before the pages');
    yield Buffer.alloc(newPagesAt - newEnd);
    growth += newPagesAt - newEnd - gap;
    yield* copy(file, usedLength);
    left -= usedLength;
  }
  yield* copy(file, Number.POSITIVE_INFINITY);
}

/** Bytes of the header that follows an entry of the block list. */
const HEADER_BYTES = 28;

interface BlockHeader {
  readonly usedLength: number;
  readonly bitmapBytes: number;
  readonly bitmapAt: number;
  readonly pagesAt: number;
}

/** Parse the length of a block and its mapped-ram header. */
function readHeader(input: StreamInput, bytes: Buffer, at: number, left: number): BlockHeader {
  const usedLength = Number(bytes.readBigUInt64BE(0));
  if (usedLength === 0 || usedLength > left) {
    const reason = `RAM block of ${usedLength} bytes, of which ${left} are left in the list`;
    throw input.error('corrupt', reason, at);
  }
  const version = bytes.readUInt32BE(8);
  if (version !== HEADER_VERSION) {
    const reason = `mapped-ram header of version ${version}, not ${HEADER_VERSION}`;
    throw input.error('unsupported', reason, at + 8);
  }
  const pageSize = Number(bytes.readBigUInt64BE(12));
  if (pageSize < 1024 || usedLength % pageSize !== 0) {
    throw input.error('corrupt', `mapped-ram pages of ${pageSize} bytes`, at + 12);
  }
  return {
    usedLength,
    bitmapBytes: Math.ceil(usedLength / pageSize / WORD_BITS) * WORD_BYTES,
    bitmapAt: Number(bytes.readBigUInt64BE(20)),
    pagesAt: Number(bytes.readBigUInt64BE(28)),
  };
}

/** Yield the next `size` bytes of a file, or all bytes up to its end. */
async function* copy(file: QemuFile, size: number): AsyncGenerator<Uint8Array, void> {
  for (let left = size; left > 0; ) {
    if (file.lookedAhead === 0 && (await file.fillOrEnd(1)) === 0) return;
    const chunk = file.getBuffer(Math.min(left, file.lookedAhead, COPY_CHUNK_BYTES));
    yield chunk;
    left -= chunk.length;
  }
}

interface BlockList {
  /** Bytes from the start of the stream to the first entry. */
  readonly offset: number;
  /** Bytes of all RAM blocks. */
  readonly totalBytes: number;
  readonly sectionId: number;
}

/** Find the list of RAM blocks without consuming anything; null if this is not a mapped-ram stream. */
async function findBlockList(file: QemuFile): Promise<BlockList | null> {
  await file.fillOrEnd(MAX_PREFIX_BYTES);
  const prefix = Buffer.from(file.peekBuffer(Math.min(file.lookedAhead, MAX_PREFIX_BYTES)));
  if (prefix.length < 9 || prefix.readUInt32BE(0) !== STREAM_MAGIC) return null;
  if (prefix[8] !== ITEM.CONFIGURATION) return null;
  const start = new QemuFile(onceOps(prefix));
  try {
    const input = new StreamInput(start);
    await input.skip(9, 'the header');
    const { capabilities } = await readConfiguration(input);
    if (!capabilities.includes('mapped-ram')) return null;
    await input.need(5, 'the first section');
    const type = input.u8();
    const sectionId = input.be32();
    const name = await input.counted('the name of a section');
    if (type !== ITEM.SECTION_START || name !== 'ram' || capabilities.includes('x-ignore-shared')) {
      const reason = 'a mapped-ram stream whose offsets cannot be changed: its first section is';
      throw input.error('unsupported', `${reason} "${name}", or it has x-ignore-shared`);
    }
    await input.need(16, 'the header of a section');
    input.be64();
    const word = input.be64();
    const flags = word & 0x3ffn;
    const totalBytes = Number(word - flags);
    if (flags !== BigInt(RAM_FLAG.MEM_SIZE) || totalBytes > LIMIT.RAM) {
      throw input.error('corrupt', 'the RAM section does not begin with its list of blocks');
    }
    return { offset: input.position, totalBytes, sectionId };
  } finally {
    start.destroy();
  }
}

function onceOps(bytes: Buffer): { getBuffer(): Uint8Array } {
  let isRead = false;
  return {
    getBuffer() {
      if (isRead) return new Uint8Array(0);
      isRead = true;
      return bytes;
    },
  };
}
