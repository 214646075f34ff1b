import type { ObjectStorage } from '../../../../adapters/storage/object-storage.ts';
import { type QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import { noop } from '../../../util/noop.ts';
import { CODEC, decompress } from '../../format/compression.ts';
import { sha256, sha256Hex } from '../../format/digest.ts';
import { packKey } from '../../format/keys.ts';
import { FINGERPRINT_BYTES, MAX_PACK_BYTES, pagesPerFrame } from '../../format/limits.ts';
import type { MapPack } from '../../format/map.ts';
import { encodeHead, type FrameEntry, fingerprintBytes, headBytes } from '../../format/pack.ts';
import type { FrameCache } from '../../read/frame-cache.ts';
import type { PackedFrame } from '../../threads/frame-tasks.ts';
import { frameThreads } from '../../threads/frame-threads.ts';

/*
 *   append() ──► frame ──► compressed in a thread ──► pack in memory ──► put whole
 *
 * Frames are compressed at the same time, and join the pack in their order.
 */

/** Frames that are being compressed, or wait for that. */
const MAX_FRAMES_IN_FLIGHT = 16;

/** Packs that are being put. */
const MAX_PACKS_IN_FLIGHT = 1;

/** A frame that is filled or compressed. */
interface OpenFrame {
  readonly pages: Buffer;
  /** Room for the stored form. */
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
  readonly #free: OpenFrame[] = [];
  #frame: OpenFrame | null = null;
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
  /** Settles when the last frame has joined its pack. */
  #joined: Promise<void> = Promise.resolve();
  #framesInFlight = 0;
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
    return this.#packs.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /**
   * Append a page; its contents are copied.
   *
   * @param from - Holds the page, at `at`.
   * @param fingerprints - Holds its fingerprint, at `fingerprintAt`.
   * @returns The number of the stored page.
   */
  append(from: Buffer, at: number, fingerprints: Buffer, fingerprintAt: number): number {
    this.#frame ??= this.#free.pop() ?? {
      // Threads see shared memory without a copy.
      pages: Buffer.from(new SharedArrayBuffer(this.#perFrame * this.#pageSize)),
      packed: Buffer.from(new SharedArrayBuffer(this.#perFrame * this.#pageSize)),
      fingerprints: Buffer.allocUnsafeSlow(this.#perFrame * FINGERPRINT_BYTES),
      count: 0,
    };
    const { pages, fingerprints: own, count } = this.#frame;
    from.copy(pages, count * this.#pageSize, at, at + this.#pageSize);
    const fingerprintEnd = fingerprintAt + FINGERPRINT_BYTES;
    fingerprints.copy(own, count * FINGERPRINT_BYTES, fingerprintAt, fingerprintEnd);
    this.#frame.count += 1;
    if (this.#frame.count === this.#perFrame) this.#endFrame();
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
      return pageOf((this.#frame as OpenFrame).pages, place - this.#pages, size);
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
    this.#endFrame();
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
    return this.#framesInFlight >= MAX_FRAMES_IN_FLIGHT || this.#puts.size > MAX_PACKS_IN_FLIGHT;
  }

  #endFrame(): void {
    const frame = this.#frame;
    if (frame === null) return;
    this.#frame = null;
    this.#framesInFlight += 1;
    const pages = frame.pages.subarray(0, frame.count * this.#pageSize);
    const packed = frameThreads.run({ kind: 'pack', pages, packed: frame.packed });
    packed.catch(noop);
    this.#joined = this.#joined.then(async () => {
      try {
        this.#join(frame, await packed);
      } catch (error) {
        this.#failure ??= toQemuFileError(error);
      }
      this.#framesInFlight -= 1;
      this.#wake();
    });
  }

  #join(frame: OpenFrame, { codec, storedBytes, digest }: PackedFrame): void {
    if (this.#failure !== undefined) return;
    const { count } = frame;
    const listed = fingerprintBytes(count, storedBytes);
    const head = headBytes(this.#entries.length + 1);
    const total = head + this.#storedBytes + storedBytes + this.#fingerprintBytes + listed;
    if (this.#pages > 0 && total > MAX_PACK_BYTES) this.#endPack();
    this.#stored ??= this.#freeStored.pop() ?? Buffer.allocUnsafeSlow(MAX_PACK_BYTES);
    const from = codec === CODEC.raw ? frame.pages : frame.packed;
    from.copy(this.#stored, this.#storedBytes, 0, storedBytes);
    this.#entries.push({ codec, storedBytes, digest });
    if (listed > 0) this.#fingerprints.push(Buffer.from(frame.fingerprints.subarray(0, listed)));
    this.#pages += count;
    this.#storedBytes += storedBytes;
    this.#fingerprintBytes += listed;
    frame.count = 0;
    this.#free.push(frame);
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
    this.#packs.push({
      digest,
      bytes: head.length + this.#storedBytes + this.#fingerprintBytes,
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
