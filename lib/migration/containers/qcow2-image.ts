import { printable, visible } from '../../util/format.ts';
import { MigrationStreamError, type StreamFault } from '../format/stream-error.ts';
import {
  ClusterMap,
  type Geometry,
  type L1Table,
  l1Span,
  type ReadAt,
  readSome,
  readWhole,
} from './qcow2-clusters.ts';

export type { ReadAt } from './qcow2-clusters.ts';

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
  L1_ENTRIES: 4_194_304,
} as const;

/** Bits of the incompatible features. */
const FEATURE = { dirty: 0x1, corrupt: 0x2, dataFile: 0x4, compression: 0x8, extendedL2: 0x10 };
const KNOWN_FEATURES = 0x1f;

/** Bytes of the header that are read. */
const HEADER_BYTES = 112;
/** Bytes of the header of version 2. */
const HEADER_V2_BYTES = 72;
const READ_CHUNK_BYTES = 262_144;
/** Bytes in which a stream has its list of capabilities. */
const CAPABILITIES_WITHIN_BYTES = 8192;

const UTF8 = new TextDecoder('utf-8');

/**
 * Reads the snapshots of a qcow2 image and their VM state (`savevm`). All offsets and sizes in the image are
 * checked. Memory is bounded by one L2 table, at most 2 MiB, however large the state is.
 *
 * Encrypted images and images with an external data file are not supported.
 */
export class Qcow2Image {
  /** All snapshots, in the order of the image. */
  readonly snapshots: readonly Qcow2Snapshot[];
  readonly #readAt: ReadAt;
  readonly #geometry: Geometry;
  readonly #tables: ReadonlyMap<Qcow2Snapshot, L1Table>;

  private constructor(
    readAt: ReadAt,
    geometry: Geometry,
    tables: ReadonlyMap<Qcow2Snapshot, L1Table>,
  ) {
    this.#readAt = readAt;
    this.#geometry = geometry;
    this.#tables = tables;
    this.snapshots = [...tables.keys()];
  }

  /**
   * Read the header of an image and its list of snapshots.
   *
   * @param readAt - Reads from any offset of the image.
   * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`, `unsupported`. Positions count from the
   *   start of the image.
   */
  static async open(readAt: ReadAt): Promise<Qcow2Image> {
    const header = new DataView(new ArrayBuffer(HEADER_BYTES));
    const bytes = new Uint8Array(header.buffer);
    // What follows the shorter header of version 2 does not belong to it.
    const there = await readSome(readAt, bytes, 0);
    if (there < HEADER_V2_BYTES) {
      throw fault('truncated', `the qcow2 image has only ${there} bytes`, there);
    }
    if (header.getUint32(0) !== 0x5146_49fb) throw fault('corrupt', 'not a qcow2 image', 0);
    const version = header.getUint32(4);
    if (version !== 2 && version !== 3) {
      throw fault('unsupported', `qcow image of version ${version}, not 2 or 3`, 4);
    }
    if (version === 2) bytes.fill(0, HEADER_V2_BYTES);
    const geometry = geometryOf(header);
    const tables = await readSnapshots(readAt, header);
    return new Qcow2Image(readAt, geometry, tables);
  }

  /**
   * Choose a snapshot with VM state.
   *
   * @param wanted - A name or, if no snapshot has that name, an id. Default: the last snapshot with VM state.
   * @throws {MigrationStreamError} `not-a-stream` if there is no such snapshot, or it has no VM state.
   */
  choose(wanted?: string): Qcow2Snapshot {
    const withState = this.snapshots.filter((snapshot) => snapshot.vmStateSize > 0);
    const names = withState.map(quote).join(', ');
    const there = names === '' ? 'no snapshot with VM state' : `VM state in: ${names}`;
    if (wanted === undefined) {
      const last = withState.at(-1);
      if (last !== undefined) return last;
      throw fault('not-a-stream', `the qcow2 image has ${there}`, 60);
    }
    const named = (key: 'name' | 'id'): Qcow2Snapshot | undefined =>
      withState.find((snapshot) => snapshot[key] === wanted) ??
      this.snapshots.find((snapshot) => snapshot[key] === wanted);
    const found = named('name') ?? named('id');
    if (found === undefined) {
      const reason = `the qcow2 image has no snapshot "${visible(wanted)}"; it has ${there}`;
      throw fault('not-a-stream', reason, 60);
    }
    if (found.vmStateSize > 0) return found;
    const reason = `snapshot ${quote(found)} has no VM state; it may be in the image of another disk of the VM`;
    throw fault('not-a-stream', reason, 60);
  }

  /**
   * Open the VM state of a snapshot of this image.
   *
   * @throws {MigrationStreamError} (rejects) `corrupt` if its tables are too small for the state.
   */
  async vmState(snapshot: Qcow2Snapshot): Promise<Qcow2VmState> {
    const l1 = this.#tables.get(snapshot);
    if (l1 === undefined) throw new TypeError('vmState: not a snapshot of this image');
    const span = l1Span(this.#geometry);
    // The state follows the disk of the snapshot, from the next L1 entry on.
    const first = Math.ceil(snapshot.diskSize / span);
    const { offset, entries } = l1;
    const name = quote(snapshot);
    if (entries > MAX.L1_ENTRIES || offset % 2 ** this.#geometry.clusterBits !== 0) {
      throw fault('corrupt', `the L1 table of snapshot ${name} is out of bounds`, offset);
    }
    if (snapshot.vmStateSize > (entries - first) * span) {
      const reason = `the L1 table of snapshot ${name} has no room for ${snapshot.vmStateSize} bytes of VM state`;
      throw fault('corrupt', reason, offset);
    }
    const map = new ClusterMap(this.#readAt, this.#geometry, l1);
    const state = new Qcow2VmState(this.#readAt, map, first, snapshot.vmStateSize);
    await state.detectHoles();
    return state;
  }
}

/**
 * The VM state of a snapshot, which is a migration stream.
 *
 * Without the capability mapped-ram QEMU writes it in order, so a hole is damage, and reading it fails. With
 * mapped-ram, holes are pages of zeros, and the recorded size may be too small, because it counts the bytes
 * transferred: the state is read on beyond that size up to the first hole, and may end in up to a cluster of
 * zeros that do not belong to it.
 */
export class Qcow2VmState implements AsyncIterable<Uint8Array> {
  /** Recorded size in bytes. */
  readonly size: number;
  readonly #readAt: ReadAt;
  readonly #map: ClusterMap;
  readonly #first: number;
  #hasHoles = false;

  /** @internal Use `Qcow2Image.vmState`. */
  constructor(readAt: ReadAt, map: ClusterMap, first: number, size: number) {
    this.#readAt = readAt;
    this.#map = map;
    this.#first = first;
    this.size = size;
  }

  /** @internal Find out whether the stream has mapped-ram. */
  async detectHoles(): Promise<void> {
    const start = Buffer.alloc(Math.min(CAPABILITIES_WITHIN_BYTES, this.size));
    this.#hasHoles = true;
    const there = await this.read(start, 0);
    this.#hasHoles = start.subarray(0, there).includes('\x0amapped-ram', 0, 'latin1');
  }

  /**
   * Read from an offset.
   *
   * @returns The number of bytes read; fewer than fit into `target` only at the end.
   */
  async read(target: Uint8Array, offset: number): Promise<number> {
    let done = 0;
    while (done < target.length) {
      const at = offset + done;
      const isBeyond = at >= this.size;
      if (isBeyond && !this.#hasHoles) break;
      const most = Math.min(target.length - done, isBeyond ? READ_CHUNK_BYTES : this.size - at);
      const run = await this.#map.run(this.#first, at, most);
      if (run.kind === 'hole' && isBeyond) break;
      const part = target.subarray(done, done + run.length);
      switch (run.kind) {
        case 'hole':
          if (!this.#hasHoles) throw holeError(at);
          part.fill(0);
          break;
        case 'zero':
          part.fill(0);
          break;
        case 'compressed':
          part.set((await this.#map.unpack(run)).subarray(run.skip, run.skip + run.length));
          break;
        case 'data':
          if (isBeyond) part.fill(0, await readSome(this.#readAt, part, run.host));
          else await readWhole(this.#readAt, part, run.host, 'the VM state');
          break;
      }
      done += run.length;
    }
    return done;
  }

  /** Yield the whole state in chunks of up to 256 KiB, which the caller may keep. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    for (let offset = 0; ; ) {
      const chunk = Buffer.allocUnsafe(READ_CHUNK_BYTES);
      const length = await this.read(chunk, offset);
      if (length === 0) return;
      yield chunk.subarray(0, length);
      offset += length;
    }
  }
}

function geometryOf(header: DataView): Geometry {
  const clusterBits = header.getUint32(20);
  if (clusterBits < 9 || clusterBits > 21) {
    throw fault('corrupt', `clusters of 2^${clusterBits} bytes, not 2^9 to 2^21`, 20);
  }
  if (header.getUint32(32) !== 0) {
    const reason =
      'the qcow2 image is encrypted, and qemu-nbd exports only its disk, not VM state: load the snapshot ' +
      'in a QEMU that has the key (-loadvm), and save the guest from there';
    throw fault('unsupported', reason, 32);
  }
  const high = header.getUint32(72);
  const features = header.getUint32(76);
  if ((features & FEATURE.dataFile) !== 0) {
    throw fault('unsupported', 'the qcow2 image has an external data file', 72);
  }
  const unknown = features & ~KNOWN_FEATURES;
  if (high !== 0 || unknown !== 0) {
    throw fault('unsupported', 'the qcow2 image has unknown incompatible features', 72);
  }
  // Without the feature bit the header may be too short for the field; 0 is zlib.
  const type = (features & FEATURE.compression) === 0 ? 0 : header.getUint8(104);
  if (type > 1) throw fault('unsupported', `clusters with compression type ${type}`, 104);
  const extendedL2 = (features & FEATURE.extendedL2) !== 0;
  if (extendedL2 && clusterBits < 14) {
    throw fault('corrupt', `subclusters in clusters of 2^${clusterBits} bytes`, 20);
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
    throw fault('corrupt', `a list of ${count} snapshots, at most ${MAX.SNAPSHOTS}`, 60);
  const start = safeNumber(header, 64, 64);
  if (start % 8 !== 0)
    throw fault('corrupt', `a list of snapshots at offset ${start}, not a multiple of 8`, 64);
  const fixed = new DataView(new ArrayBuffer(40));
  let at = start;
  for (let i = 0; i < count; i++) {
    const what = `the list of snapshots, at ${i + 1} of ${count}`;
    await readWhole(readAt, new Uint8Array(fixed.buffer), at, what);
    const idLength = fixed.getUint16(12);
    const nameLength = fixed.getUint16(14);
    const extraLength = fixed.getUint32(36);
    if (extraLength > MAX.EXTRA_DATA_BYTES) {
      throw fault(
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
      throw fault(
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
  throw fault('corrupt', `the qcow2 image has an offset or a size of ${value} bytes`, position);
}

function holeError(offset: number): MigrationStreamError {
  return fault('corrupt', 'the VM state has a hole, so its image is damaged; in the state', offset);
}

function quote(snapshot: Qcow2Snapshot): string {
  return `"${visible(snapshot.name)}" (id ${printable(snapshot.id)})`;
}

function fault(kind: StreamFault, reason: string, position: number): MigrationStreamError {
  return new MigrationStreamError(kind, reason, { position });
}
