import { be16, be32, be64, stream } from './stream-bytes.ts';

/*
 * qcow2 images with snapshots, built by hand and independently of lib/.
 */

/** A cluster of a VM state. */
export type Cell =
  /** Uncompressed bytes. */
  | Uint8Array
  | 'hole'
  | 'zero'
  /** Compressed bytes; the rest of the last sector is garbage. */
  | { readonly packed: Uint8Array }
  /** With extended L2 entries: which of the 32 subclusters are allocated, and which are zeros. */
  | { readonly bytes: Uint8Array; readonly there: number; readonly zeros: number };

export interface SnapshotParts {
  id?: string;
  name?: string;
  /** Clusters of the VM state, from its first byte on. */
  cells?: readonly Cell[];
  /** Default: all cells. */
  vmStateSize?: number | bigint;
  diskSize?: number | bigint;
  /** Bytes of extra data. Default 24, as in version 3. */
  extra?: number;
  seconds?: number;
  nanoseconds?: number;
  vmClock?: bigint;
}

export interface ImageParts {
  clusterBits?: number;
  version?: number;
  features?: number;
  /** Byte 104. */
  compression?: number;
  encryption?: number;
  virtualSize?: number;
  snapshots?: readonly SnapshotParts[];
}

export interface Image {
  bytes: Buffer;
  /** Offset of the snapshot table. */
  listAt: number;
  /** Offsets of each snapshot's L1 table and of the L2 tables of its VM state. */
  tables: { l1At: number; l2At: number[]; firstEntry: number }[];
}

/** Feature bit of extended L2 entries. */
export const EXTENDED_L2 = 0x10;

/** Build an image; it maps no clusters of the disk itself. */
export function qcow2(parts: ImageParts = {}): Image {
  const { clusterBits = 9, version = 3, features = 0, virtualSize = 40_000 } = parts;
  const size = 2 ** clusterBits;
  const extended = (features & EXTENDED_L2) !== 0;
  const entrySize = extended ? 16 : 8;
  const perTable = size / entrySize;
  const clusters: Buffer[] = [Buffer.alloc(size)];
  const used = (): number => clusters.reduce((sum, bytes) => sum + bytes.length, 0);
  const store = (bytes: Uint8Array): number => {
    const at = used();
    const padded = Buffer.alloc(Math.ceil(bytes.length / size) * size);
    padded.set(bytes);
    clusters.push(padded);
    return at;
  };
  const entryOf = (cell: Cell): Buffer => {
    const bitmaps = extended ? be64(0) : '';
    if (cell === 'hole') return stream(be64(0), bitmaps);
    if (cell === 'zero') {
      return extended ? stream(be64(0), be64(0xffff_ffff_0000_0000n)) : be64(1);
    }
    if (cell instanceof Uint8Array) {
      const entry = be64(BigInt(store(cell)) | (1n << 63n));
      return extended ? stream(entry, be64(0x0000_0000_ffff_ffffn)) : entry;
    }
    if ('packed' in cell) {
      // Not at the start of a cluster, nor of a sector.
      const sectors = Math.ceil((cell.packed.length + 7) / 512) - 1;
      const at = store(stream(Buffer.alloc(7, 0xee), cell.packed, Buffer.alloc(20, 0xee))) + 7;
      const entry = BigInt(at) | (BigInt(sectors) << BigInt(62 - (clusterBits - 8))) | (1n << 62n);
      return stream(be64(entry), bitmaps);
    }
    const entry = be64(BigInt(store(cell.bytes)) | (1n << 63n));
    return stream(entry, be32(cell.zeros), be32(cell.there));
  };

  const tables: Image['tables'] = [];
  const entries: Buffer[] = [];
  for (const [i, snapshot] of (parts.snapshots ?? []).entries()) {
    const { id = String(i + 1), name = `snapshot ${i + 1}`, cells = [], extra = 24 } = snapshot;
    const { diskSize = virtualSize, vmStateSize = cells.length * size } = snapshot;
    const firstEntry = Math.ceil(Number(diskSize) / (perTable * size));
    const l2At: number[] = [];
    const safe = firstEntry < 1000 ? firstEntry : 0;
    const l1: Buffer[] = [Buffer.alloc(safe * 8)];
    for (let from = 0; from < cells.length; from += perTable) {
      const some = cells.slice(from, from + perTable);
      const isEmpty = some.every((cell) => cell === 'hole');
      const at = isEmpty ? 0 : store(stream(...some.map(entryOf)));
      l2At.push(at);
      l1.push(be64(at === 0 ? 0 : BigInt(at) | (1n << 63n)));
    }
    const l1At = store(Buffer.concat(l1));
    tables.push({ l1At, l2At, firstEntry });
    const more = stream(be64(vmStateSize), be64(diskSize), be64(-1), Buffer.alloc(1100));
    const entry = stream(
      be64(l1At),
      be32(Buffer.concat(l1).length / 8),
      be16(Buffer.byteLength(id)),
      be16(Buffer.byteLength(name)),
      be32(snapshot.seconds ?? 0),
      be32(snapshot.nanoseconds ?? 0),
      be64(snapshot.vmClock ?? 0),
      be32(extra >= 8 ? 0 : Number(vmStateSize)),
      be32(extra),
      more.subarray(0, extra),
      Buffer.from(id),
      Buffer.from(name),
    );
    entries.push(entry, Buffer.alloc((8 - (entry.length % 8)) % 8));
  }
  const listAt = entries.length === 0 ? 0 : store(Buffer.concat(entries));

  const header = stream(
    Buffer.from('QFI\xfb', 'latin1'),
    be32(version),
    be64(0),
    be32(0),
    be32(clusterBits),
    be64(virtualSize),
    be32(parts.encryption ?? 0),
    be32(0),
    be64(0),
    be64(0),
    be32(0),
    be32(parts.snapshots?.length ?? 0),
    be64(listAt),
    ...(version < 3
      ? // Of version 2 the header ends here, and other things follow.
        [Buffer.alloc(40, 0xff)]
      : [
          be64(features),
          be64(0),
          be64(0),
          be32(4),
          be32(112),
          Uint8Array.of(parts.compression ?? 0),
          Buffer.alloc(7),
        ]),
  );
  const bytes = Buffer.concat(clusters);
  bytes.set(header);
  return { bytes, listAt, tables };
}

/** Reads at offsets of bytes, a few at a time, as a short read may. */
export function readerOver(
  bytes: Uint8Array,
  most = 1000,
): (target: Uint8Array, offset: number) => Promise<number> {
  return async (target, offset) => {
    const some = bytes.subarray(offset, offset + Math.min(most, target.length));
    target.set(some);
    return some.length;
  };
}
