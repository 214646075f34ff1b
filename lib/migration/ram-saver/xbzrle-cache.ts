import { Buffer } from 'node:buffer';
import { QemuFileError } from '../../contract/errors.ts';
import { encodeXbzrle, type PageView, pageView, TOO_LONG } from './encode-xbzrle.ts';

/** Rounds during which a page keeps its slot after it was last used. @see QEMU `CACHED_PAGE_LIFETIME` */
const LIFETIME_ROUNDS = 2;
const EMPTY = -1;

/** The page has to be sent as it is. */
export const SEND_PAGE: number = TOO_LONG;

/**
 * The pages as they were last sent, for encodings of what changed since. Each page has one slot, which it
 * shares with others.
 *
 * @see QEMU migration/page_cache.c
 */
export class XbzrleCache {
  readonly #slots: number;
  readonly #pages: readonly PageView[];
  /** Number of the page in a slot, counted through all blocks. */
  readonly #numbers: Float64Array;
  /** The round in which a slot was last used. */
  readonly #used: Uint32Array;
  readonly #target: Buffer;
  /** The first N bytes of the target, at index N, made when they are first needed. */
  readonly #encodings: Buffer[] = [];
  #length = 0;

  /**
   * @param bytes - Size of the cache; rounded down to a power of 2 of pages.
   * @throws {QemuFileError} `EINVAL` for less than a page.
   */
  constructor(bytes: number, pageSize: number) {
    if (!(bytes >= pageSize)) {
      const reason = `a cache of ${bytes} bytes has no room for a page of ${pageSize}`;
      throw new QemuFileError('EINVAL', reason, { operation: 'xbzrleCacheBytes' });
    }
    this.#slots = 2 ** Math.floor(Math.log2(bytes / pageSize));
    const memory = new ArrayBuffer(this.#slots * pageSize);
    this.#pages = Array.from({ length: this.#slots }, (_, slot) =>
      pageView(memory, slot * pageSize, pageSize),
    );
    this.#numbers = new Float64Array(this.#slots).fill(EMPTY);
    this.#used = new Uint32Array(this.#slots);
    this.#target = Buffer.allocUnsafe(pageSize);
  }

  /** The encoding that `encode` returned the length of; valid until the next `encode`. */
  get encoding(): Buffer {
    this.#encodings[this.#length] ??= this.#target.subarray(0, this.#length);
    return this.#encodings[this.#length] as Buffer;
  }

  /**
   * Encode what changed in a page since it was last sent, and remember the page.
   *
   * @param number - Number of the page, counted through all blocks.
   * @param page - Its contents.
   * @param round - Number of the round.
   * @returns Bytes of `encoding`; 0 if nothing changed; `SEND_PAGE`.
   */
  encode(number: number, page: PageView, round: number): number {
    const slot = number % this.#slots;
    const old = this.#pages[slot] as PageView;
    if (this.#numbers[slot] !== number) {
      this.#insert(slot, number, page, round);
      return SEND_PAGE;
    }
    this.#used[slot] = round;
    const length = encodeXbzrle(old, page, this.#target);
    if (length !== 0) page.bytes.copy(old.bytes);
    this.#length = length;
    return length;
  }

  /** Remember that a page was sent as zeros. */
  zero(number: number, round: number): void {
    const slot = number % this.#slots;
    if (this.#numbers[slot] !== number) return;
    this.#used[slot] = round;
    (this.#pages[slot] as PageView).bytes.fill(0);
  }

  /** Forget a page that was sent by other means. */
  forget(number: number): void {
    const slot = number % this.#slots;
    if (this.#numbers[slot] === number) this.#numbers[slot] = EMPTY;
  }

  #insert(slot: number, number: number, page: PageView, round: number): void {
    const isFresh =
      this.#numbers[slot] !== EMPTY && (this.#used[slot] as number) + LIFETIME_ROUNDS > round;
    if (isFresh) return;
    this.#numbers[slot] = number;
    this.#used[slot] = round;
    page.bytes.copy((this.#pages[slot] as PageView).bytes);
  }
}
