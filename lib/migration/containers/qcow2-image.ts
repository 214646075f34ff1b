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
  /** When it was taken. */
  readonly date: Date;
  /** Bytes of its VM state; 0 for one of the disk alone. */
  readonly vmStateSize: number;
  /** Bytes of the disk when it was taken. */
  readonly diskSize: number;
  /** What the guest's clock showed, in nanoseconds. */
  readonly vmClock: bigint;
}

/** Bounds of what an image may ask for, those of QEMU. */
const MOST = { snapshots: 65_536, snapshotBytes: 67_108_864, extra: 1024, l1Entries: 4_194_304 };

/** Incompatible features, by bit. */
const FEATURE = { dirty: 0x1, corrupt: 0x2, dataFile: 0x4, compression: 0x8, extendedL2: 0x10 };
const KNOWN_FEATURES = 0x1f;

const HEADER_SIZE = 112;
const PIECE_SIZE = 262_144;
/** Bytes in which the list of capabilities of a stream is found. */
const CAPABILITIES_WITHIN = 8192;

const UTF8 = new TextDecoder('utf-8');

/**
 * A qcow2 image as far as snapshots with VM state go (`savevm`). All offsets and sizes in it are checked;
 * memory is bounded by one L2 table, at most 2 MiB, however large the state is.
 *
 * Not read: encrypted images, and those with an external data file.
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
   * Reads an image's header and its list of snapshots.
   *
   * @throws {MigrationStreamError} (rejects) what cannot be read as one; positions count from the start
   *   of the image.
   */
  static async open(readAt: ReadAt): Promise<Qcow2Image> {
    const header = new DataView(new ArrayBuffer(HEADER_SIZE));
    const bytes = new Uint8Array(header.buffer);
    // Of version 2 there are only 72 bytes; the rest is then something else, or nothing.
    const there = await readSome(readAt, bytes, 0);
    if (there < 72) throw fault('truncated', `the qcow2 image has only ${there} bytes`, there);
    if (header.getUint32(0) !== 0x5146_49fb) throw fault('corrupt', 'this is no qcow2 image', 0);
    const version = header.getUint32(4);
    if (version !== 2 && version !== 3) {
      throw fault('unsupported', `a qcow image of version ${version}; known are 2 and 3`, 4);
    }
    if (version === 2) bytes.fill(0, 72);
    const geometry = geometryOf(header);
    const tables = await readSnapshots(readAt, header);
    return new Qcow2Image(readAt, geometry, tables);
  }

  /**
   * Chooses a snapshot that has VM state.
   *
   * @param wanted - Its name or, if none has that, its id. Default: the last one that has VM state.
   * @throws {MigrationStreamError} `not-a-stream`: there is none, or it has no VM state.
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
    const reason = `the snapshot ${quote(found)} is of the disk alone; the VM state may be in the image of another disk of the same VM`;
    throw fault('not-a-stream', reason, 60);
  }

  /**
   * Opens the VM state of one of this image's snapshots.
   *
   * @throws {MigrationStreamError} (rejects) if its tables cannot hold it.
   */
  async vmState(snapshot: Qcow2Snapshot): Promise<Qcow2VmState> {
    const l1 = this.#tables.get(snapshot);
    if (l1 === undefined) throw new TypeError('vmState: not a snapshot of this image');
    const span = l1Span(this.#geometry);
    // The state lies behind the disk as it was then, from the next L1 entry on.
    const first = Math.ceil(snapshot.diskSize / span);
    const { offset, entries } = l1;
    const name = quote(snapshot);
    if (entries > MOST.l1Entries || offset % 2 ** this.#geometry.clusterBits !== 0) {
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
 * The VM state of a snapshot: a migration stream.
 *
 * One that QEMU wrote in order, as it does without the capability mapped-ram, has no holes: a hole
 * in it is damage, and is reported rather than read as zeros. A stream with mapped-ram has them where pages
 * are zero, and its recorded size may fall short of its end, since it counts what was transferred; it is
 * read on beyond that size up to the first hole, and so may end in up to a cluster of zeros that do not belong to it.
 */
export class Qcow2VmState implements AsyncIterable<Uint8Array> {
  /** Bytes by word of the snapshot. */
  readonly size: number;
  readonly #readAt: ReadAt;
  readonly #map: ClusterMap;
  readonly #first: number;
  #sparse = false;

  /** @internal Use `Qcow2Image.vmState`. */
  constructor(readAt: ReadAt, map: ClusterMap, first: number, size: number) {
    this.#readAt = readAt;
    this.#map = map;
    this.#first = first;
    this.size = size;
  }

  /** @internal Finds out whether the stream is one with mapped-ram. */
  async detectHoles(): Promise<void> {
    const start = Buffer.alloc(Math.min(CAPABILITIES_WITHIN, this.size));
    this.#sparse = true;
    const there = await this.read(start, 0);
    this.#sparse = start.subarray(0, there).includes('\x0amapped-ram', 0, 'latin1');
  }

  /**
   * Reads from an offset.
   *
   * @returns How many bytes were read: all there is room for, except at the end.
   */
  async read(target: Uint8Array, offset: number): Promise<number> {
    let done = 0;
    while (done < target.length) {
      const at = offset + done;
      const isBeyond = at >= this.size;
      if (isBeyond && !this.#sparse) break;
      const most = Math.min(target.length - done, isBeyond ? PIECE_SIZE : this.size - at);
      const run = await this.#map.run(this.#first, at, most);
      if (run.kind === 'hole' && isBeyond) break;
      const part = target.subarray(done, done + run.length);
      switch (run.kind) {
        case 'hole':
          if (!this.#sparse) throw holeError(at);
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

  /** Gives the whole state in pieces of up to 256 KiB, each of them the caller's. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    for (let offset = 0; ; ) {
      const piece = Buffer.allocUnsafe(PIECE_SIZE);
      const length = await this.read(piece, offset);
      if (length === 0) return;
      yield piece.subarray(0, length);
      offset += length;
    }
  }
}

function geometryOf(header: DataView): Geometry {
  const clusterBits = header.getUint32(20);
  if (clusterBits < 9 || clusterBits > 21) {
    throw fault('corrupt', `clusters of 2^${clusterBits} bytes; possible are 9 to 21`, 20);
  }
  if (header.getUint32(32) !== 0) {
    const reason =
      'the qcow2 image is encrypted; load the snapshot in a QEMU that has the key (-loadvm), and save the guest from there';
    throw fault('unsupported', reason, 32);
  }
  const high = header.getUint32(72);
  const features = header.getUint32(76);
  if ((features & FEATURE.dataFile) !== 0) {
    throw fault('unsupported', 'the qcow2 image keeps its data in another file', 72);
  }
  const unknown = features & ~KNOWN_FEATURES;
  if (high !== 0 || unknown !== 0) {
    throw fault('unsupported', 'the qcow2 image has features that are not known here', 72);
  }
  // The field is there only if the header is long enough; 0 is zlib.
  const type = (features & FEATURE.compression) === 0 ? 0 : header.getUint8(104);
  if (type > 1) throw fault('unsupported', `clusters compressed by method ${type}`, 104);
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
  if (count > MOST.snapshots) throw fault('corrupt', `a list of ${count} snapshots`, 60);
  const start = safeNumber(header, 64, 64);
  if (start % 8 !== 0) throw fault('corrupt', `a list of snapshots at ${start}`, 64);
  const fixed = new DataView(new ArrayBuffer(40));
  let at = start;
  for (let i = 0; i < count; i++) {
    const what = `the list of snapshots, at ${i + 1} of ${count}`;
    await readWhole(readAt, new Uint8Array(fixed.buffer), at, what);
    const idLength = fixed.getUint16(12);
    const nameLength = fixed.getUint16(14);
    const extraLength = fixed.getUint32(36);
    if (extraLength > MOST.extra) {
      throw fault('corrupt', `${extraLength} bytes of extra data of a snapshot`, at + 36);
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
    if (at - start > MOST.snapshotBytes) {
      throw fault('corrupt', `a list of snapshots of more than ${MOST.snapshotBytes} bytes`, at);
    }
  }
  return tables;
}

/** A be64 that must be an offset or a size. */
function safeNumber(view: DataView, at: number, position: number): number {
  const value = view.getBigUint64(at);
  if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  throw fault('corrupt', `the qcow2 image has an offset or a size of ${value} bytes`, position);
}

function holeError(offset: number): MigrationStreamError {
  return fault('corrupt', 'the VM state has a hole: its image is damaged; in the state', offset);
}

function quote(snapshot: Qcow2Snapshot): string {
  return `"${visible(snapshot.name)}" (id ${printable(snapshot.id)})`;
}

function fault(kind: StreamFault, reason: string, position: number): MigrationStreamError {
  return new MigrationStreamError(kind, reason, { position });
}
