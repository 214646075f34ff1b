import { printable, visible } from '../../util/format.ts';
import {
  ClusterMap,
  type Geometry,
  imageFault,
  type L1Table,
  l1Span,
  type ReadAt,
} from './qcow2-clusters.ts';
import { type Qcow2Snapshot, readHeader } from './qcow2-header.ts';
import { Qcow2VmState } from './qcow2-vm-state.ts';

/** QEMU's bound for an L1 table. */
const MAX_L1_ENTRIES = 4_194_304;

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
    const { geometry, tables } = await readHeader(readAt);
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
      throw imageFault('not-a-stream', `the qcow2 image has ${there}`, 60);
    }
    const named = (key: 'name' | 'id'): Qcow2Snapshot | undefined =>
      withState.find((snapshot) => snapshot[key] === wanted) ??
      this.snapshots.find((snapshot) => snapshot[key] === wanted);
    const found = named('name') ?? named('id');
    if (found === undefined) {
      const reason = `the qcow2 image has no snapshot "${visible(wanted)}"; it has ${there}`;
      throw imageFault('not-a-stream', reason, 60);
    }
    if (found.vmStateSize > 0) return found;
    const reason = `snapshot ${quote(found)} has no VM state; it may be in the image of another disk of the VM`;
    throw imageFault('not-a-stream', reason, 60);
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
    if (entries > MAX_L1_ENTRIES || offset % 2 ** this.#geometry.clusterBits !== 0) {
      throw imageFault('corrupt', `the L1 table of snapshot ${name} is out of bounds`, offset);
    }
    if (snapshot.vmStateSize > (entries - first) * span) {
      const reason = `the L1 table of snapshot ${name} has no room for ${snapshot.vmStateSize} bytes of VM state`;
      throw imageFault('corrupt', reason, offset);
    }
    const map = new ClusterMap(this.#readAt, this.#geometry, l1);
    const state = new Qcow2VmState(this.#readAt, map, first, snapshot.vmStateSize);
    await state.detectHoles();
    return state;
  }
}

function quote(snapshot: Qcow2Snapshot): string {
  return `"${visible(snapshot.name)}" (id ${printable(snapshot.id)})`;
}
