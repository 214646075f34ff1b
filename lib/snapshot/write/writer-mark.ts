import { randomUUID } from 'node:crypto';
import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import { noop } from '../../util/noop.ts';
import { PREFIX } from '../format/keys.ts';

/** How often a writer renews its mark, in milliseconds. */
const RENEW_MS = 60_000;

/** Age at which the mark of a writer that was killed does not count any more, in milliseconds. */
export const STALE_MARK_MS = 900_000;

/** What a mark says: the maps whose packs must stay. */
export interface MarkContent {
  readonly maps: readonly string[];
}

/**
 * The mark of a writer in the store. While it is there, the removal of garbage leaves alone what is newer than
 * the mark, and what the maps in it need.
 */
export class WriterMark {
  readonly #storage: ObjectStorage;
  readonly #key: string = PREFIX.writers + randomUUID();
  readonly #body: Buffer;
  readonly #timer: NodeJS.Timeout;

  private constructor(storage: ObjectStorage, content: MarkContent) {
    this.#storage = storage;
    this.#body = Buffer.from(`${JSON.stringify(content)}\n`);
    // The renewed mark must stay as old as the writer, so its age is written beside it.
    this.#timer = setInterval(() => void this.#renew(), RENEW_MS);
    this.#timer.unref();
  }

  /** Put a mark. */
  static async put(
    storage: ObjectStorage,
    content: MarkContent,
    signal?: AbortSignal,
  ): Promise<WriterMark> {
    const mark = new WriterMark(storage, content);
    try {
      await storage.put(`${mark.#key}.start`, [mark.#body], { signal });
    } catch (error) {
      clearInterval(mark.#timer);
      throw error;
    }
    return mark;
  }

  /** Remove the mark. Never rejects: a mark that stays does not count after a while. */
  async remove(): Promise<void> {
    clearInterval(this.#timer);
    await this.#storage.remove(`${this.#key}.alive`).catch(noop);
    await this.#storage.remove(`${this.#key}.start`).catch(noop);
  }

  async #renew(): Promise<void> {
    await this.#storage.put(`${this.#key}.alive`, [this.#body]).catch(noop);
  }
}
