import type { MigrationStreamError } from '../format/stream-error.ts';
import { type ClusterMap, imageFault, type ReadAt, readSome, readWhole } from './qcow2-clusters.ts';

const READ_CHUNK_BYTES = 262_144;
/** Bytes in which a stream has its list of capabilities. */
const CAPABILITIES_WITHIN_BYTES = 8192;

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

function holeError(offset: number): MigrationStreamError {
  return imageFault(
    'corrupt',
    'the VM state has a hole, so its image is damaged; in the state',
    offset,
  );
}
