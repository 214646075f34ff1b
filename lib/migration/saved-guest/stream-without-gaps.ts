import { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { Gap } from '../page-index/page-index.ts';
import { EXTENT_BYTES, type ExtentCache } from './extent-cache.ts';
import type { StreamBytes } from './read-frame.ts';

/** A part of a stream between two gaps. */
interface Piece {
  /** Offset in the stream without gaps. */
  readonly at: number;
  /** Offset in the stream. */
  readonly from: number;
  readonly length: number;
}

/** A stream without the parts that only hold pages. */
export class StreamWithoutGaps implements StreamBytes {
  readonly #cache: ExtentCache;
  readonly #pieces: Piece[] = [];
  readonly #size: number = 0;

  /**
   * @param cache - The extents of the stream.
   * @param gaps - The parts to leave out, in ascending order.
   * @param size - Bytes of the stream.
   */
  constructor(cache: ExtentCache, gaps: readonly Gap[], size: number) {
    this.#cache = cache;
    let from = 0;
    let at = 0;
    for (const gap of [...gaps, { from: size, to: size }]) {
      const length = gap.from - from;
      if (length > 0) this.#pieces.push({ at, from, length });
      at += length;
      from = gap.to;
    }
    this.#size = at;
  }

  /** Return a file that reads the stream from its start. */
  file(): QemuFile {
    let next = 0;
    return new QemuFile({
      getBuffer: async (buffer) => {
        const bytes = buffer.subarray(0, Math.min(buffer.length, this.#size - next));
        await this.#fill(bytes, next);
        next += bytes.length;
        return bytes.length;
      },
    });
  }

  async take(from: number, to: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(to - from);
    await this.#fill(bytes, from);
    return bytes;
  }

  async #fill(target: Uint8Array, position: number): Promise<void> {
    let done = 0;
    let index = this.#pieceAt(position);
    while (done < target.length) {
      const piece = this.#pieces[index] as Piece;
      const skipped = position + done - piece.at;
      const take = Math.min(target.length - done, piece.length - skipped);
      await this.#copy(target.subarray(done, done + take), piece.from + skipped);
      done += take;
      index += 1;
    }
  }

  /** Fill a buffer from a position of the stream with gaps. */
  async #copy(target: Uint8Array, position: number): Promise<void> {
    let done = 0;
    while (done < target.length) {
      const at = position + done;
      const extent = this.#cache.use(Math.floor(at / EXTENT_BYTES));
      try {
        await extent.reading;
        const from = at % EXTENT_BYTES;
        const part = (extent.bytes as Buffer).subarray(from, from + target.length - done);
        target.set(part, done);
        done += part.length;
      } finally {
        this.#cache.release(extent);
      }
    }
  }

  #pieceAt(position: number): number {
    let low = 0;
    let high = this.#pieces.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#pieces[middle] as Piece).at <= position) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}
