import type { ObjectStorage } from '../../../../adapters/storage/object-storage.ts';
import { type QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import { noop } from '../../../util/noop.ts';
import { sha256, sha256Hex } from '../../format/digest.ts';
import { CODEC, decompress } from '../../format/encoding/compression.ts';
import { packKey } from '../../format/keys.ts';
import { FINGERPRINT_BYTES, pagesPerFrame } from '../../format/limits.ts';
import type { MapPack } from '../../format/map.ts';
import { encodeHead, type FrameEntry, fingerprintBytes, headBytes } from '../../format/pack.ts';
import type { FrameCache } from '../../read/frame-cache.ts';
import type { PackedFrame } from '../../threads/frame-tasks.ts';
import { frameThreads } from '../../threads/frame-threads.ts';

/*
 *   append() ──► group of frames ──► compressed in a thread ──► pack in memory ──► put whole
 *
 * Groups are compressed at the same time, and their frames join the pack in their order.
 */

/** Frames that are sent to a thread together: one message takes as long as compressing some frames. */
const GROUP_FRAMES = 8;

/** Groups that are being compressed, or wait for that. */
const MAX_GROUPS_IN_FLIGHT = 3;

/** Most bytes of a pack that is written: three of them are in memory at a time. */
const PACK_BYTES = 8_388_608;

/** Packs that are being put. */
const MAX_PACKS_IN_FLIGHT = 1;

/** Frames that are filled or compressed. */
interface FrameGroup {
  readonly pages: Buffer;
  /** Room for the stored form of each frame. */
  readonly packed: Buffer;
  readonly fingerprints: Buffer;
  count: number;
}

/** Writes pages into packs. */
export class PackWriter {
  readonly #storage: ObjectStorage;
  readonly #pageSize: number;
  readonly #perFrame: number;
  readonly #signal: AbortSignal | undefined;
  readonly #free: FrameGroup[] = [];
  #group: FrameGroup | null = null;
  #appended = 0;
  /** The frames of the pack in memory. */
  #entries: FrameEntry[] = [];
  /** Holds them as they are stored. */
  #stored: Buffer | null = null;
  #storedBytes = 0;
  readonly #freeStored: Buffer[] = [];
  #fingerprints: Buffer[] = [];
  #fingerprintBytes = 0;
  #pages = 0;
  readonly #packs: MapPack[] = [];
  /** Bytes of these packs. */
  #bytes = 0;
  /** Settles when the last frame has joined its pack. */
  #joined: Promise<void> = Promise.resolve();
  #groupsInFlight = 0;
  readonly #puts = new Set<Promise<void>>();
  #failure: QemuFileError | undefined;
  #wake: () => void = noop;

  constructor(storage: ObjectStorage, pageSize: number, signal?: AbortSignal) {
    this.#storage = storage;
    this.#pageSize = pageSize;
    this.#perFrame = pagesPerFrame(pageSize);
    this.#signal = signal;
  }

  /** Number of pages appended. */
  get pages(): number {
    return this.#appended;
  }

  /** Bytes of all packs that were put or are being put. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Append a page; its contents are copied.
   *
   * @param from - Holds the page, at `at`.
   * @param fingerprints - Holds its fingerprint, at `fingerprintAt`.
   * @returns The number of the stored page.
   */
  append(from: Buffer, at: number, fingerprints: Buffer, fingerprintAt: number): number {
    this.#group ??= this.#free.pop() ?? this.#makeGroup();
    const { pages, fingerprints: own, count } = this.#group;
    from.copy(pages, count * this.#pageSize, at, at + this.#pageSize);
    const fingerprintEnd = fingerprintAt + FINGERPRINT_BYTES;
    fingerprints.copy(own, count * FINGERPRINT_BYTES, fingerprintAt, fingerprintEnd);
    this.#group.count += 1;
    if (this.#group.count === GROUP_FRAMES * this.#perFrame) this.#endGroup();
    return this.#appended++;
  }

  /** Wait until there is room for more pages. Rejects if a pack could not be put. */
  async ready(): Promise<void> {
    while (this.#failure === undefined && this.#isBusy()) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  /**
   * Read a page that was appended.
   *
   * @param stored - Number of the stored page.
   * @param cache - Reads what is in the storage already.
   */
  async read(stored: number, cache: FrameCache): Promise<Uint8Array> {
    await this.#joined;
    const size = this.#pageSize;
    let place = stored;
    for (const pack of this.#packs) {
      if (place < pack.pages) {
        await this.settle();
        if (this.#failure !== undefined) throw this.#failure;
        const frame = Math.floor(place / this.#perFrame);
        return pageOf(await cache.get(cache.pack(pack), frame), place % this.#perFrame, size);
      }
      place -= pack.pages;
    }
    if (place >= this.#pages) {
      return pageOf((this.#group as FrameGroup).pages, place - this.#pages, size);
    }
    const frame = Math.floor(place / this.#perFrame);
    const { codec, storedBytes } = this.#entries[frame] as FrameEntry;
    const count = Math.min(this.#perFrame, this.#pages - frame * this.#perFrame);
    let from = 0;
    for (const entry of this.#entries.slice(0, frame)) from += entry.storedBytes;
    const packed = (this.#stored as Buffer).subarray(from, from + storedBytes);
    const bytes = await decompress({ codec, bytes: packed }, count * size);
    return pageOf(bytes, place % this.#perFrame, size);
  }

  /** Put the rest, and return all packs, in the order of their pages, when they are durable. */
  async finish(): Promise<readonly MapPack[]> {
    this.#endGroup();
    await this.#joined;
    if (this.#failure === undefined && this.#pages > 0) this.#endPack();
    await this.settle();
    if (this.#failure !== undefined) throw this.#failure;
    return this.#packs;
  }

  /** Wait until nothing is compressed or put any more. Never rejects. */
  async settle(): Promise<void> {
    await this.#joined;
    while (this.#puts.size > 0) await Promise.all(this.#puts);
  }

  #isBusy(): boolean {
    return this.#groupsInFlight >= MAX_GROUPS_IN_FLIGHT || this.#puts.size > MAX_PACKS_IN_FLIGHT;
  }

  #makeGroup(): FrameGroup {
    const pages = GROUP_FRAMES * this.#perFrame;
    const bytes = pages * this.#pageSize;
    // Threads see shared memory without a copy.
    const memory = new SharedArrayBuffer(2 * bytes);
    return {
      pages: Buffer.from(memory, 0, bytes),
      packed: Buffer.from(memory, bytes),
      fingerprints: Buffer.allocUnsafeSlow(pages * FINGERPRINT_BYTES),
      count: 0,
    };
  }

  #endGroup(): void {
    const group = this.#group;
    if (group === null) return;
    this.#group = null;
    this.#groupsInFlight += 1;
    const pages = group.pages.subarray(0, group.count * this.#pageSize);
    const frameBytes = this.#perFrame * this.#pageSize;
    const packing = frameThreads.run({ kind: 'pack', pages, frameBytes, packed: group.packed });
    packing.catch(noop);
    this.#joined = this.#joined.then(async () => {
      try {
        const packed = await packing;
        for (const [frame, form] of packed.entries()) this.#join(group, frame, form);
        group.count = 0;
        this.#free.push(group);
      } catch (error) {
        this.#failure ??= toQemuFileError(error);
      }
      this.#groupsInFlight -= 1;
      this.#wake();
    });
  }

  /** Let a frame of a group join the pack. */
  #join(group: FrameGroup, frame: number, { codec, storedBytes, digest }: PackedFrame): void {
    if (this.#failure !== undefined) return;
    const first = frame * this.#perFrame;
    const count = Math.min(this.#perFrame, group.count - first);
    const listed = fingerprintBytes(count, storedBytes);
    const head = headBytes(this.#entries.length + 1);
    const total = head + this.#storedBytes + storedBytes + this.#fingerprintBytes + listed;
    if (this.#pages > 0 && total > PACK_BYTES) this.#endPack();
    this.#stored ??= this.#freeStored.pop() ?? Buffer.allocUnsafeSlow(PACK_BYTES);
    const from = codec === CODEC.raw ? group.pages : group.packed;
    const at = first * this.#pageSize;
    from.copy(this.#stored, this.#storedBytes, at, at + storedBytes);
    this.#entries.push({ codec, storedBytes, digest });
    const own = first * FINGERPRINT_BYTES;
    if (listed > 0) {
      this.#fingerprints.push(Buffer.from(group.fingerprints.subarray(own, own + listed)));
    }
    this.#pages += count;
    this.#storedBytes += storedBytes;
    this.#fingerprintBytes += listed;
  }

  #endPack(): void {
    const fingerprints = Buffer.concat(this.#fingerprints);
    const head = encodeHead({
      pageSize: this.#pageSize,
      pagesPerFrame: this.#perFrame,
      pages: this.#pages,
      frames: this.#entries,
      fingerprintsDigest: sha256(fingerprints),
    });
    const digest = sha256Hex(head);
    const bytes = head.length + this.#storedBytes + this.#fingerprintBytes;
    this.#bytes += bytes;
    this.#packs.push({
      digest,
      bytes,
      pages: this.#pages,
      frames: this.#entries.length,
      pageSize: this.#pageSize,
    });
    const stored = this.#stored as Buffer;
    const parts = [head, stored.subarray(0, this.#storedBytes), fingerprints];
    const put = this.#put(digest, parts);
    this.#puts.add(put);
    void put.then(() => {
      this.#freeStored.push(stored);
      this.#puts.delete(put);
      this.#wake();
    });
    this.#entries = [];
    this.#stored = null;
    this.#storedBytes = 0;
    this.#fingerprints = [];
    this.#fingerprintBytes = 0;
    this.#pages = 0;
  }

  async #put(digest: string, parts: readonly Uint8Array[]): Promise<void> {
    try {
      await this.#storage.put(packKey(digest), parts, { signal: this.#signal });
    } catch (error) {
      this.#failure ??= toQemuFileError(error);
    }
  }
}

function pageOf(frame: Uint8Array, place: number, pageSize: number): Uint8Array {
  return frame.subarray(place * pageSize, (place + 1) * pageSize);
}
