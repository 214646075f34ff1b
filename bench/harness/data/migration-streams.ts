import { once } from 'node:events';
import { createWriteStream } from 'node:fs';

/*
 * Migration streams for the benches, written without the package: one RAM block in one SECTION_PART, no device.
 */

const PAGE = 4096;
const ZERO_CONTINUE = 0x22;
const PAGE_CONTINUE = 0x28;
const PIECE_RECORDS = 4096;

function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function be64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

function counted(text: string): Buffer {
  return Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);
}

const EOS = be64(0x10);
const FOOTER = Buffer.concat([Buffer.from([0x7e]), be32(1)]);

/**
 * Return records of consecutive pages; only the first one carries the name of the block.
 *
 * @param changedEvery - One in so many pages has other contents than without it; 0 for none.
 */
function records(
  kind: 'dense' | 'zero',
  first: number,
  count: number,
  changedEvery: number,
): Buffer {
  const size = 8 + (kind === 'dense' ? PAGE : 1);
  const bytes = Buffer.alloc(size * count, 0x5a);
  for (let index = 0; index < count; index++) {
    const at = index * size;
    const flags = kind === 'dense' ? PAGE_CONTINUE : ZERO_CONTINUE;
    bytes.writeBigUInt64BE(BigInt((first + index) * PAGE + flags), at);
    if (kind === 'zero') bytes[at + 8] = 0;
    // All pages differ, as in a guest.
    else bytes.writeUInt32LE(first + index, at + 100);
    if (changedEvery > 0 && (first + index) % changedEvery === 0) bytes[at + 1000] = 1;
  }
  return bytes;
}

/** Greatest lengths in pages of the runs of data and of zeros of an ordinary guest: 30 % of its pages have data. */
const ORDINARY = { dense: 47, zero: 111 } as const;

/** Yield the records of a guest as it is after some work: runs of pages with data and of zeros in turn. */
function* ordinaryRecords(count: number): Generator<Buffer> {
  let seed = 1;
  let kind: 'dense' | 'zero' = 'dense';
  const end = count + 1;
  for (let page = 1; page < end; ) {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    const length = Math.min(1 + ((seed >>> 8) % ORDINARY[kind]), end - page);
    yield records(kind, page, length, 0);
    page += length;
    kind = kind === 'dense' ? 'zero' : 'dense';
  }
}

/**
 * Write a stream with `pages` pages into a file.
 *
 * @param changedEvery - One in so many dense pages has other contents than in the stream without it.
 * @returns The size of the file in bytes.
 */
export async function writeStream(
  path: string,
  kind: 'dense' | 'zero' | 'ordinary',
  pages: number,
  changedEvery = 0,
): Promise<number> {
  const file = createWriteStream(path);
  const write = async (...parts: Buffer[]): Promise<void> => {
    for (const part of parts) if (!file.write(part)) await once(file, 'drain');
  };
  const machine = Buffer.from('pc-i440fx-7.2');
  await write(be32(0x5145564d), be32(3), Buffer.from([7]), be32(machine.length), machine);
  const length = (pages + 1) * PAGE;
  const list = Buffer.concat([be64(length + 4), counted('pc.ram'), be64(length)]);
  await write(Buffer.from([1]), be32(1), counted('ram'), be32(0), be32(4), list, EOS, FOOTER);
  await write(Buffer.from([2]), be32(1), be64(2), counted('pc.ram'), Buffer.from([0]));
  if (kind === 'ordinary') for (const run of ordinaryRecords(pages)) await write(run);
  for (let first = 1; kind !== 'ordinary' && first <= pages; first += PIECE_RECORDS) {
    await write(records(kind, first, Math.min(PIECE_RECORDS, pages + 1 - first), changedEvery));
  }
  const json = Buffer.from('{"page_size": 4096, "devices": []}');
  await write(EOS, FOOTER, Buffer.from([3]), be32(1), EOS, FOOTER);
  await write(Buffer.from([0, 6]), be32(json.length), json);
  file.end();
  await once(file, 'finish');
  return file.bytesWritten;
}
