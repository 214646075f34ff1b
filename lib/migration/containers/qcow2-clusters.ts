import zlib from 'node:zlib';
import { MigrationStreamError, type StreamFault } from '../format/stream-error.ts';

/**
 * Reads into a buffer from an offset of a file. The result is the number of bytes read; only 0 is the end of
 * the file.
 */
export type ReadAt = (target: Uint8Array, offset: number) => Promise<number>;

/** The layout of an image. */
export interface Geometry {
  readonly clusterBits: number;
  /** Whether each entry of an L2 table has a bitmap of its 32 subclusters. */
  readonly extendedL2: boolean;
  readonly compression: 'zlib' | 'zstd';
}

/** The place of an L1 table, which lists L2 tables. */
export interface L1Table {
  readonly offset: number;
  readonly entries: number;
}

/** Consecutive bytes of the guest's view that are stored in the same way. */
export type Run =
  /** Bytes in the file, from offset `host` on. */
  | { readonly kind: 'data'; readonly host: number; readonly length: number }
  /** Zeros that the table records. */
  | { readonly kind: 'zero'; readonly length: number }
  /** Never written. */
  | { readonly kind: 'hole'; readonly length: number }
  /** A compressed cluster from its byte `skip` on; it takes at most `size` bytes of the file. */
  | {
      readonly kind: 'compressed';
      readonly host: number;
      readonly size: number;
      readonly skip: number;
      readonly length: number;
    };

type Inflate = (packed: Uint8Array, options: { maxOutputLength: number }) => Uint8Array;

/** Missing in Node before 22.15. */
const { zstdDecompressSync } = zlib as { zstdDecompressSync?: Inflate };

const inflateRaw: Inflate = (packed, options) =>
  // Other bytes may follow the data in its last sector, and the data may lack its end mark.
  zlib.inflateRawSync(packed, { ...options, finishFlush: zlib.constants.Z_SYNC_FLUSH });

const SUBCLUSTERS = 32;
const TWO_32 = 0x1_0000_0000;
const SECTOR_BYTES = 512;

/** Return the bytes of the guest's view that one entry of an L1 table maps. */
export function l1Span({ clusterBits, extendedL2 }: Geometry): number {
  return 2 ** (clusterBits + clusterBits - (extendedL2 ? 4 : 3));
}

/**
 * Fill a buffer from an offset.
 *
 * @param what - Noun phrase for the error, such as `the header`.
 * @throws {MigrationStreamError} (rejects) `truncated` at the end of the image.
 */
export async function readWhole(
  readAt: ReadAt,
  target: Uint8Array,
  offset: number,
  what: string,
): Promise<void> {
  const filled = await readSome(readAt, target, offset);
  if (filled === target.length) return;
  const reason = `the qcow2 image ends inside ${what}: ${filled} of ${target.length} bytes`;
  throw new MigrationStreamError('truncated', reason, { position: offset });
}

/** Fill a buffer from an offset up to the end of the file; return the number of bytes read. */
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

/** Finds clusters through an L1 table and its L2 tables, and keeps the last L2 table in memory. */
export class ClusterMap {
  readonly #readAt: ReadAt;
  readonly #geometry: Geometry;
  readonly #l1: L1Table;
  readonly #clusterSize: number;
  readonly #span: number;
  /** Bytes that one entry, or one bit of its bitmaps, maps. */
  readonly #unit: number;
  readonly #table: DataView;
  /** Index in the L1 table of the L2 table in `#table`; -1 before the first. */
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
   * Find the run that begins at an offset.
   *
   * @param first - L1 entry from which `offset` counts.
   * @param most - Most bytes of the run.
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

  /** Return the contents of a compressed cluster, valid until the next call. */
  async unpack(run: Run & { kind: 'compressed' }): Promise<Uint8Array> {
    if (this.#unpacked !== null && this.#unpackedFrom === run.host) return this.#unpacked;
    const inflate = this.#geometry.compression === 'zlib' ? inflateRaw : zstdDecompressSync;
    if (inflate === undefined) {
      const reason =
        'the VM state has clusters compressed with zstd, which needs Node 22.15 or later';
      throw new MigrationStreamError('unsupported', reason, { position: run.host });
    }
    const packed = new Uint8Array(run.size);
    // The size counts whole sectors, and the last one may extend beyond the end of the file.
    const arrived = await readSome(this.#readAt, packed, run.host);
    let unpacked: Uint8Array;
    try {
      unpacked = inflate(packed.subarray(0, arrived), { maxOutputLength: this.#clusterSize });
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

  /** Return the run of one unit from the loaded table, at an offset in its span. */
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
      if (isData && host === 0) throw this.#corrupt(at, 'allocated subclusters without a cluster');
    }
    if (isZero) return { kind: 'zero', length };
    if (!isData) return { kind: 'hole', length };
    if (host % this.#clusterSize !== 0 || host > Number.MAX_SAFE_INTEGER) {
      throw this.#corrupt(at, `a cluster at ${host}, which is not aligned`);
    }
    return { kind: 'data', host: host + (within % this.#clusterSize), length };
  }

  #compressed(at: number, within: number, most: number): Run {
    const entry = this.#table.getBigUint64(at);
    const offsetBits = BigInt(62 - (this.#geometry.clusterBits - 8));
    const host = Number(BigInt.asUintN(Number(offsetBits), entry));
    if (host > Number.MAX_SAFE_INTEGER)
      throw this.#corrupt(at, 'a cluster at an impossible offset');
    const sectors = Number(BigInt.asUintN(62, entry) >> offsetBits) + 1;
    const size = sectors * SECTOR_BYTES - (host % SECTOR_BYTES);
    const skip = within % this.#clusterSize;
    return {
      kind: 'compressed',
      host,
      size,
      skip,
      length: Math.min(most, this.#clusterSize - skip),
    };
  }

  /** Load an L2 table; return false if there is none. */
  async #load(index: number): Promise<boolean> {
    if (this.#loaded === index) return true;
    if (index >= this.#l1.entries) return false;
    const entryAt = this.#l1.offset + index * 8;
    const entry = new DataView(new ArrayBuffer(8));
    await readWhole(this.#readAt, bytesOf(entry), entryAt, "the snapshot's L1 table");
    const offset = hostOffset(entry.getUint32(0), entry.getUint32(4));
    if (offset === 0) return false;
    if (offset % this.#clusterSize !== 0 || offset > Number.MAX_SAFE_INTEGER) {
      const reason = `the snapshot's L1 table has an L2 table at ${offset}, which is not aligned`;
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

/** Return bits 9 to 55 of an entry. */
function hostOffset(high: number, low: number): number {
  return (high & 0x00ff_ffff) * TWO_32 + ((low & 0xffff_fe00) >>> 0);
}

function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** Return the error of an image. */
export function imageFault(
  kind: StreamFault,
  reason: string,
  position: number,
): MigrationStreamError {
  return new MigrationStreamError(kind, reason, { position });
}
