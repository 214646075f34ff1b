import { randomUUID } from 'node:crypto';
import type { ObjectStorage, StoredObject } from '../../../adapters/storage/object-storage.ts';
import { noop } from '../../util/noop.ts';
import { PREFIX } from '../format/keys.ts';

/** How often a writer renews its mark, in milliseconds. */
const RENEW_MS = 60_000;

/** Age at which the mark of a writer that was killed does not count any more, in milliseconds. */
export const STALE_MARK_MS = 900_000;

/** How long a writer that ends waits for storage that is silent, in milliseconds. */
export const REMOVE_TIMEOUT_MS = 5000;

/** Ends of the keys of a mark's objects: one as old as the writer, one as old as its last sign of life. */
const START = '.start';
const ALIVE = '.alive';

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
    this.#timer = setInterval(() => void this.#renew(), RENEW_MS);
    this.#timer.unref();
  }

  /** Return whether an object is the start of a mark, which is as old as the writer. */
  static isStart(key: string): boolean {
    return key.endsWith(START);
  }

  /** Return the part of a key that is the same for all objects of a mark. */
  static idOf(key: string): string {
    return key.replace(/\.[a-z]+$/, '');
  }

  /** Put a mark. */
  static async put(
    storage: ObjectStorage,
    content: MarkContent,
    signal?: AbortSignal,
  ): Promise<WriterMark> {
    const mark = new WriterMark(storage, content);
    try {
      // S3 storage learns now whether it has conditional PUTs: a guest may be stopped when the manifest is put.
      const ifAbsent = storage.canPutIfAbsent === null;
      await storage.put(mark.#key + START, [mark.#body], { signal, ifAbsent });
    } catch (error) {
      // It may be there all the same: a signal can end the request while the storage answers it.
      await mark.remove();
      throw error;
    }
    return mark;
  }

  /** Remove the mark. Never rejects: a mark that stays does not count after a while. */
  async remove(): Promise<void> {
    clearInterval(this.#timer);
    const signal = AbortSignal.timeout(REMOVE_TIMEOUT_MS);
    const ends = [ALIVE, START];
    await Promise.allSettled(ends.map((end) => this.#storage.remove(this.#key + end, { signal })));
  }

  async #renew(): Promise<void> {
    await this.#storage.put(this.#key + ALIVE, [this.#body]).catch(noop);
  }
}

/** Return the keys and times of the starts of those marks whose writers are at work. */
export function liveMarks(
  marks: readonly StoredObject[],
  nowMs: number,
): { key: string; startMs: number }[] {
  const lastMs = new Map<string, number>();
  for (const { key, modifiedMs } of marks) {
    const id = WriterMark.idOf(key);
    lastMs.set(id, Math.max(lastMs.get(id) ?? 0, modifiedMs));
  }
  return marks
    .filter(({ key }) => WriterMark.isStart(key))
    .filter(({ key }) => (lastMs.get(WriterMark.idOf(key)) as number) > nowMs - STALE_MARK_MS)
    .map(({ key, modifiedMs }) => ({ key, startMs: modifiedMs }));
}
