import {
  type Geometry,
  imageFault,
  type L1Table,
  type ReadAt,
  readSome,
  readWhole,
} from './qcow2-clusters.ts';

/** A snapshot inside a qcow2 image. */
export interface Qcow2Snapshot {
  readonly id: string;
  readonly name: string;
  /** Time at which it was taken. */
  readonly date: Date;
  /** Bytes of its VM state; 0 if it has only the disk. */
  readonly vmStateSize: number;
  /** Bytes of the disk when it was taken. */
  readonly diskSize: number;
  /** The guest's clock at that time, in nanoseconds. */
  readonly vmClock: bigint;
}

/** QEMU's bounds for the sizes in an image. */
const MAX = {
  SNAPSHOTS: 65_536,
  SNAPSHOT_LIST_BYTES: 67_108_864,
  EXTRA_DATA_BYTES: 1024,
} as const;

/** Bits of the incompatible features. */
const FEATURE = { dirty: 0x1, corrupt: 0x2, dataFile: 0x4, compression: 0x8, extendedL2: 0x10 };
const KNOWN_FEATURES = 0x1f;

/** Bytes of the header that are read. */
const HEADER_BYTES = 112;
/** Bytes of the header of version 2. */
const HEADER_V2_BYTES = 72;

const UTF8 = new TextDecoder('utf-8');

/** The header of an image, and its list of snapshots. */
export interface Qcow2Header {
  readonly geometry: Geometry;
  /** The snapshots, in the order of the image, each with the table of its clusters. */
  readonly tables: ReadonlyMap<Qcow2Snapshot, L1Table>;
}

/**
 * Read the header of an image and its list of snapshots.
 *
 * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`, `unsupported`.
 */
export async function readHeader(readAt: ReadAt): Promise<Qcow2Header> {
  const header = new DataView(new ArrayBuffer(HEADER_BYTES));
  const bytes = new Uint8Array(header.buffer);
  // What follows the shorter header of version 2 does not belong to it.
  const there = await readSome(readAt, bytes, 0);
  if (there < HEADER_V2_BYTES) {
    throw imageFault('truncated', `the qcow2 image has only ${there} bytes`, there);
  }
  if (header.getUint32(0) !== 0x5146_49fb) throw imageFault('corrupt', 'not a qcow2 image', 0);
  const version = header.getUint32(4);
  if (version !== 2 && version !== 3) {
    throw imageFault('unsupported', `qcow image of version ${version}, not 2 or 3`, 4);
  }
  if (version === 2) bytes.fill(0, HEADER_V2_BYTES);
  const geometry = geometryOf(header);
  return { geometry, tables: await readSnapshots(readAt, header) };
}

function geometryOf(header: DataView): Geometry {
  const clusterBits = header.getUint32(20);
  if (clusterBits < 9 || clusterBits > 21) {
    throw imageFault('corrupt', `clusters of 2^${clusterBits} bytes, not 2^9 to 2^21`, 20);
  }
  if (header.getUint32(32) !== 0) {
    const reason =
      'the qcow2 image is encrypted, and qemu-nbd exports only its disk, not VM state: load the snapshot ' +
      'in a QEMU that has the key (-loadvm), and save the guest from there';
    throw imageFault('unsupported', reason, 32);
  }
  const high = header.getUint32(72);
  const features = header.getUint32(76);
  if ((features & FEATURE.dataFile) !== 0) {
    throw imageFault('unsupported', 'the qcow2 image has an external data file', 72);
  }
  const unknown = features & ~KNOWN_FEATURES;
  if (high !== 0 || unknown !== 0) {
    throw imageFault('unsupported', 'the qcow2 image has unknown incompatible features', 72);
  }
  // Without the feature bit the header may be too short for the field; 0 is zlib.
  const type = (features & FEATURE.compression) === 0 ? 0 : header.getUint8(104);
  if (type > 1) throw imageFault('unsupported', `clusters with compression type ${type}`, 104);
  const extendedL2 = (features & FEATURE.extendedL2) !== 0;
  if (extendedL2 && clusterBits < 14) {
    throw imageFault('corrupt', `subclusters in clusters of 2^${clusterBits} bytes`, 20);
  }
  return { clusterBits, extendedL2, compression: type === 1 ? 'zstd' : 'zlib' };
}

async function readSnapshots(
  readAt: ReadAt,
  header: DataView,
): Promise<Map<Qcow2Snapshot, L1Table>> {
  const count = header.getUint32(60);
  const tables = new Map<Qcow2Snapshot, L1Table>();
  if (count === 0) return tables;
  if (count > MAX.SNAPSHOTS)
    throw imageFault('corrupt', `a list of ${count} snapshots, at most ${MAX.SNAPSHOTS}`, 60);
  const start = safeNumber(header, 64, 64);
  if (start % 8 !== 0)
    throw imageFault('corrupt', `a list of snapshots at offset ${start}, not a multiple of 8`, 64);
  const fixed = new DataView(new ArrayBuffer(40));
  let at = start;
  for (let i = 0; i < count; i++) {
    const what = `the list of snapshots, at ${i + 1} of ${count}`;
    await readWhole(readAt, new Uint8Array(fixed.buffer), at, what);
    const idLength = fixed.getUint16(12);
    const nameLength = fixed.getUint16(14);
    const extraLength = fixed.getUint32(36);
    if (extraLength > MAX.EXTRA_DATA_BYTES) {
      throw imageFault(
        'corrupt',
        `a snapshot has ${extraLength} bytes of extra data, at most ${MAX.EXTRA_DATA_BYTES}`,
        at + 36,
      );
    }
    const rest = new Uint8Array(extraLength + idLength + nameLength);
    await readWhole(readAt, rest, at + 40, what);
    const extra = new DataView(rest.buffer, 0, extraLength);
    const names = rest.subarray(extraLength);
    tables.set(
      {
        id: UTF8.decode(names.subarray(0, idLength)),
        name: UTF8.decode(names.subarray(idLength)),
        date: new Date(fixed.getUint32(16) * 1000 + Math.floor(fixed.getUint32(20) / 1e6)),
        vmStateSize: extraLength >= 8 ? safeNumber(extra, 0, at + 40) : fixed.getUint32(32),
        diskSize: extraLength >= 16 ? safeNumber(extra, 8, at + 48) : safeNumber(header, 24, 24),
        vmClock: fixed.getBigUint64(24),
      },
      { offset: safeNumber(fixed, 0, at), entries: fixed.getUint32(8) },
    );
    at += Math.ceil((40 + rest.length) / 8) * 8;
    if (at - start > MAX.SNAPSHOT_LIST_BYTES) {
      throw imageFault(
        'corrupt',
        `a list of snapshots of more than ${MAX.SNAPSHOT_LIST_BYTES} bytes`,
        at,
      );
    }
  }
  return tables;
}

/** Return a be64 that must be an offset or a size. */
function safeNumber(view: DataView, at: number, position: number): number {
  const value = view.getBigUint64(at);
  if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  throw imageFault(
    'corrupt',
    `the qcow2 image has an offset or a size of ${value} bytes`,
    position,
  );
}
