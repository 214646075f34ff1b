import zlib from 'node:zlib';
import { MigrationStreamError } from '../format/stream-error.ts';

/**
 * Reads into a buffer from an offset of a file; answers how many bytes were read: fewer than there is room
 * for are no end, 0 is.
 */
export type ReadAt = (target: Uint8Array, offset: number) => Promise<number>;

/** How an image is laid out. */
export interface Geometry {
  readonly clusterBits: number;
  /** Whether each entry of an L2 table has a bitmap of its 32 subclusters. */
  readonly extendedL2: boolean;
  readonly compression: 'zlib' | 'zstd';
}

/** A table of L2 tables. */
export interface L1Table {
  readonly offset: number;
  readonly entries: number;
}

/** Bytes that follow each other in the guest's view, and how they are stored. */
export type Run =
  /** In the file, from the offset `host` on. */
  | { readonly kind: 'data'; readonly host: number; readonly length: number }
  /** Zeros by word of the table. */
  | { readonly kind: 'zero'; readonly length: number }
  /** Never written. */
  | { readonly kind: 'hole'; readonly length: number }
  /** The rest of a compressed cluster from `skip` on; it is at most `size` bytes long in the file. */
  | {
      readonly kind: 'compressed';
      readonly host: number;
      readonly size: number;
      readonly skip: number;
      readonly length: number;
    };

type Inflate = (packed: Uint8Array, options: { maxOutputLength: number }) => Uint8Array;

/** Node.js has it from 22.15 on. */
const { zstdDecompressSync } = zlib as { zstdDecompressSync?: Inflate };

const inflateRaw: Inflate = (packed, options) =>
  // What follows the data in its last sector is not part of it, and the data itself may lack its end mark.
  zlib.inflateRawSync(packed, { ...options, finishFlush: zlib.constants.Z_SYNC_FLUSH });

const SUBCLUSTERS = 32;
const TWO_32 = 0x1_0000_0000;
const SECTOR = 512;

/** Bytes that one entry of an L1 table stands for. */
export function l1Span({ clusterBits, extendedL2 }: Geometry): number {
  return 2 ** (clusterBits + clusterBits - (extendedL2 ? 4 : 3));
}

/**
 * Fills a buffer from an offset.
 *
 * @param what - What is read, for the error: `the header`.
 * @throws {MigrationStreamError} (rejects) `truncated` at the end of the image.
 */
export async function readWhole(
  readAt: ReadAt,
  target: Uint8Array,
  offset: number,
  what: string,
): Promise<void> {
  const there = await readSome(readAt, target, offset);
  if (there === target.length) return;
  const reason = `the qcow2 image ends inside ${what}: ${there} of ${target.length} bytes are there`;
  throw new MigrationStreamError('truncated', reason, { position: offset });
}

/** Fills a buffer from an offset as far as the file reaches; answers how far. */
export async function readSome(
  readAt: ReadAt,
  target: Uint8Array,
  offset: number,
): Promise<number> {
  let done = 0;
  while (done < target.length) {
    const count = await readAt(done === 0 ? target : target.subarray(done), offset + done);
    if (count <= 0) break;
    done += count;
  }
  return done;
}

/** Finds where clusters are, through an L1 table and its L2 tables, one of which is kept. */
export class ClusterMap {
  readonly #readAt: ReadAt;
  readonly #geometry: Geometry;
  readonly #l1: L1Table;
  readonly #clusterSize: number;
  readonly #span: number;
  /** Bytes that one entry, or one bit of its bitmaps, stands for. */
  readonly #unit: number;
  readonly #table: DataView;
  /** Which L2 table `#table` holds, by its place in the L1 table; -1 is none. */
  #loaded = -1;
  #loadedAt = 0;
  #unpacked: Uint8Array | null = null;
  #unpackedFrom = -1;

  constructor(readAt: ReadAt, geometry: Geometry, l1: L1Table) {
    this.#readAt = readAt;
    this.#geometry = geometry;
    this.#l1 = l1;
    this.#clusterSize = 2 ** geometry.clusterBits;
    this.#span = l1Span(geometry);
    this.#unit = geometry.extendedL2 ? this.#clusterSize / SUBCLUSTERS : this.#clusterSize;
    this.#table = new DataView(new ArrayBuffer(this.#clusterSize));
  }

  /**
   * Finds the bytes from a place on.
   *
   * @param first - The L1 entry from which `offset` counts.
   * @param most - How many bytes are wanted; the run may be shorter.
   */
  async run(first: number, offset: number, most: number): Promise<Run> {
    const within = offset % this.#span;
    const limit = Math.min(most, this.#span - within);
    if (!(await this.#load(first + Math.floor(offset / this.#span)))) {
      return { kind: 'hole', length: limit };
    }
    const start = this.#at(within, limit);
    let { length } = start;
    while (length < limit) {
      const next = this.#at(within + length, limit - length);
      if (next.kind !== start.kind || next.kind === 'compressed') break;
      if (start.kind === 'data' && (next as typeof start).host !== start.host + length) break;
      length += next.length;
    }
    return start.kind === 'compressed' ? start : { ...start, length };
  }

  /** The contents of a compressed cluster; valid until the next call. */
  async unpack(run: Run & { kind: 'compressed' }): Promise<Uint8Array> {
    if (this.#unpacked !== null && this.#unpackedFrom === run.host) return this.#unpacked;
    const inflate = this.#geometry.compression === 'zlib' ? inflateRaw : zstdDecompressSync;
    if (inflate === undefined) {
      const reason =
        'the VM state has clusters compressed with zstd, which this Node.js cannot read';
      throw new MigrationStreamError('unsupported', reason, { position: run.host });
    }
    const packed = new Uint8Array(run.size);
    // The size is that of whole sectors, the last of which may go beyond the end of the file.
    const there = await readSome(this.#readAt, packed, run.host);
    let unpacked: Uint8Array;
    try {
      unpacked = inflate(packed.subarray(0, there), { maxOutputLength: this.#clusterSize });
    } catch (cause) {
      const reason = `a compressed cluster is damaged: ${(cause as Error).message}`;
      throw new MigrationStreamError('corrupt', reason, { position: run.host, cause });
    }
    if (unpacked.length !== this.#clusterSize) {
      const reason = `a compressed cluster has ${unpacked.length} of ${this.#clusterSize} bytes`;
      throw new MigrationStreamError('corrupt', reason, { position: run.host });
    }
    this.#unpacked = unpacked;
    this.#unpackedFrom = run.host;
    return unpacked;
  }

  /** What the loaded table says of the unit at an offset in its span. */
  #at(within: number, most: number): Run {
    const index = Math.floor(within / this.#clusterSize);
    const at = index * (this.#geometry.extendedL2 ? 16 : 8);
    const high = this.#table.getUint32(at);
    const low = this.#table.getUint32(at + 4);
    if ((high & 0x4000_0000) !== 0) return this.#compressed(at, within, most);
    const skip = within % this.#unit;
    const length = Math.min(most, this.#unit - skip);
    const host = hostOffset(high, low);
    let isData = host !== 0;
    let isZero = (low & 1) !== 0;
    if (this.#geometry.extendedL2) {
      const bit = 1 << Math.floor((within % this.#clusterSize) / this.#unit);
      isData = (this.#table.getUint32(at + 12) & bit) !== 0;
      isZero = (this.#table.getUint32(at + 8) & bit) !== 0;
      if (isData && isZero) throw this.#corrupt(at, 'a subcluster that is both data and zeros');
      if (isData && host === 0) throw this.#corrupt(at, 'subclusters of no cluster');
    }
    if (isZero) return { kind: 'zero', length };
    if (!isData) return { kind: 'hole', length };
    if (host % this.#clusterSize !== 0 || host > Number.MAX_SAFE_INTEGER) {
      throw this.#corrupt(at, `a cluster at ${host}, where none can be`);
    }
    return { kind: 'data', host: host + (within % this.#clusterSize), length };
  }

  #compressed(at: number, within: number, most: number): Run {
    const entry = this.#table.getBigUint64(at);
    const offsetBits = BigInt(62 - (this.#geometry.clusterBits - 8));
    const host = Number(BigInt.asUintN(Number(offsetBits), entry));
    if (host > Number.MAX_SAFE_INTEGER) throw this.#corrupt(at, 'a cluster where none can be');
    const sectors = Number(BigInt.asUintN(62, entry) >> offsetBits) + 1;
    const size = sectors * SECTOR - (host % SECTOR);
    const skip = within % this.#clusterSize;
    return {
      kind: 'compressed',
      host,
      size,
      skip,
      length: Math.min(most, this.#clusterSize - skip),
    };
  }

  /** Loads an L2 table; false if there is none. */
  async #load(index: number): Promise<boolean> {
    if (this.#loaded === index) return true;
    if (index >= this.#l1.entries) return false;
    const entryAt = this.#l1.offset + index * 8;
    const entry = new DataView(new ArrayBuffer(8));
    await readWhole(this.#readAt, bytesOf(entry), entryAt, "the snapshot's L1 table");
    const offset = hostOffset(entry.getUint32(0), entry.getUint32(4));
    if (offset === 0) return false;
    if (offset % this.#clusterSize !== 0 || offset > Number.MAX_SAFE_INTEGER) {
      const reason = `the snapshot's L1 table has an L2 table at ${offset}, where none can be`;
      throw new MigrationStreamError('corrupt', reason, { position: entryAt });
    }
    this.#loaded = -1;
    await readWhole(this.#readAt, bytesOf(this.#table), offset, 'an L2 table');
    this.#loaded = index;
    this.#loadedAt = offset;
    return true;
  }

  #corrupt(at: number, what: string): MigrationStreamError {
    const position = this.#loadedAt + at;
    return new MigrationStreamError('corrupt', `an L2 table has ${what}`, { position });
  }
}

/** Bits 9 to 55 of an entry. */
function hostOffset(high: number, low: number): number {
  return (high & 0x00ff_ffff) * TWO_32 + ((low & 0xffff_fe00) >>> 0);
}

function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
