import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import { abortError, type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';
import type { PageVisitor } from '../../migration/format/events.ts';
import type { StreamSource } from '../../migration/format/stream-source.ts';
import { combineVisitors } from '../../migration/memory/combine-visitors.ts';
import type { PageRange } from '../../migration/page-source/page-source.ts';
import { decodeWorkingSet } from '../../migration/page-source/working-set.ts';
import {
  type CollectFrameOptions,
  collectFrame,
} from '../../migration/saved-guest/collect-frame.ts';
import type { GuestFrame } from '../../migration/saved-guest/read-frame.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { noop } from '../../util/noop.ts';
import type { SnapshotInfo, SnapshotManifest } from '../format/manifest.ts';
import type { SnapshotMap } from '../format/map.ts';
import type { PageRuns } from '../format/page-runs.ts';
import type { FrameCache } from '../read/frame-cache.ts';
import { completeSnapshot } from './complete-snapshot.ts';
import { openBareStream } from './open-bare-stream.ts';
import { type FinishedPacks, OwnPacks } from './pages/own-packs.ts';
import { PageIntake } from './pages/page-intake.ts';
import { PageStorer } from './pages/page-storer.ts';
import { pagesOfSet } from './pages/pages-of-set.ts';
import { ParentPages } from './pages/parent-pages.ts';
import { SnapshotFile } from './snapshot-file.ts';

/** Options of a snapshot that is written. */
export interface SnapshotWriterOptions {
  /** Name of the snapshot with whose pages the new ones are compared. Default: none. */
  parent?: string | undefined;
  /** Replace a snapshot of the same name. Default false. */
  replace?: boolean | undefined;
  /**
   * The pages that the guest needs first, as `encodeWorkingSet` returns them: they are packed together, and the set is
   * kept with the snapshot. Default: the set of the parent.
   */
  workingSet?: string | undefined;
  /** Called with the reason, a clause, for which a working set is not used. */
  onWarning?: ((reason: string) => void) | undefined;
  /** Gives up with `ECANCELED`; nothing appears under the name. */
  signal?: AbortSignal | undefined;
  /** Called as memory arrives and is stored. */
  onProgress?: ((progress: SnapshotProgress) => void) | undefined;
}

/** How far the writing of a snapshot is. */
export interface SnapshotProgress {
  /** Bytes of guest memory that have arrived, zeros and pages that came again included. */
  readonly bytes: number;
  /** Bytes of packs that were written. */
  readonly storedBytes: number;
}

/** Options of the file that takes a stream. */
export interface SnapshotFileOptions {
  onWritten?: ((info: SnapshotInfo) => void) | undefined;
  onClose?: (() => Promise<void>) | undefined;
}

/** What is known about a stream besides its bytes; see `MigrationReader`. */
export type SnapshotStreamOptions = Omit<CollectFrameOptions, 'ready' | 'onEvent'>;

/** Bytes that are read from a saved guest at a time. */
const READ_BYTES = 1_048_576;

const NO_PACKS: FinishedPacks = { packs: [], numberOf: (stored) => stored };

/** What a writer needs of its store. */
export interface WriterStore {
  readonly storage: ObjectStorage;
  readonly cache: FrameCache;
  /** Check that the name is free, and that there is the parent. */
  check(): Promise<SnapshotManifest | null>;
  /** Check, mark that a writer is at work, and read the parent. */
  begin(): Promise<Begun>;
}

/** What a writer has from its store. */
export interface Begun {
  /** Manifest and map of the parent; null without one. */
  readonly parent: { readonly manifest: SnapshotManifest; readonly map: SnapshotMap } | null;
  /** Text of the working set; null without one. */
  readonly workingSet: string | null;
  /** End the writer's mark. Never rejects. */
  end(): Promise<void>;
}

/** Reads all pages into an intake, and returns the rest of the guest. */
type Feed = (intake: PageIntake, ready: () => Promise<void>) => Promise<GuestFrame>;

/** Writes one snapshot: a stream, or a saved guest. Nothing appears under its name before it is whole. */
export class SnapshotWriter {
  readonly #store: WriterStore;
  readonly #name: string;
  readonly #options: SnapshotWriterOptions;

  /** @internal */
  constructor(store: WriterStore, name: string, options: SnapshotWriterOptions) {
    this.#store = store;
    this.#name = name;
    this.#options = options;
  }

  /**
   * Write a migration stream. Pages that came again replace the earlier ones.
   *
   * @param source - A `QemuFile`, which stays open, or chunks of bytes: a stream of any layout, which may be in
   *   the containers that `unwrap` opens.
   * @param options - Further channels, and what is known of the stream.
   * @returns The facts about the snapshot, from its manifest.
   * @throws {MigrationStreamError} (rejects) as `MigrationReader`.
   * @throws {QemuFileError} (rejects) `EEXIST` if there is a snapshot of that name, `ENOENT` if there is no such
   *   parent, `EBADMSG` if the parent is damaged, `ECANCELED`; the errors of the source and of the storage.
   */
  writeStream(source: StreamSource, options: SnapshotStreamOptions = {}): Promise<SnapshotInfo> {
    return this.#write((intake, ready) => collectStream(source, intake, { ...options, ready }));
  }

  /**
   * Write a saved guest.
   *
   * @param guest - The guest; it stays open.
   * @returns The facts about the snapshot, from its manifest.
   * @throws {QemuFileError} (rejects) as `writeStream`; the errors of the guest's pages.
   */
  writeGuest(guest: SavedGuest): Promise<SnapshotInfo> {
    return this.#write(async (intake, ready) => {
      const { pages } = guest;
      const buffer = new Uint8Array(Math.max(READ_BYTES, pages.pageSize));
      intake.blocks(pages.blocks, pages.pageSize);
      for (const index of pages.blocks.keys()) {
        for (const { at, length } of pages.extents(index)) {
          for (let done = 0; done < length; done += buffer.length) {
            const part = buffer.subarray(0, Math.min(buffer.length, length - done));
            await pages.read(index, at + done, part);
            intake.page({ index }, at + done, part);
            await ready();
          }
        }
      }
      return guest;
    });
  }

  /**
   * Check that the snapshot can be written, before a guest is stopped for it: as each write does at its start.
   *
   * @throws {QemuFileError} (rejects) `EEXIST`, `ENOENT`, `EBADMSG`; the error of the storage.
   */
  async check(): Promise<void> {
    await this.#store.check();
  }

  /**
   * Return a file that takes a migration stream. Closing it publishes the snapshot, or rejects with the reason why
   * there is none; destroying it gives the snapshot up.
   *
   * @param options - `onWritten` is called with the facts about the snapshot, before the file is closed;
   *   `onClose` when nothing is read or written any more.
   * @example
   * ```js
   * await saveVm(qmp, store.writer('agent-1', { parent: 'base' }).file());
   * ```
   */
  file(options: SnapshotFileOptions = {}): SnapshotFile {
    return new SnapshotFile(async (stream, { pages, onEvent, onRead, isWanted }) => {
      try {
        const info = await this.#write(async (intake, ready) => {
          const visitor = pages === undefined ? intake : combineVisitors([pages, intake]);
          const frame = await collectStream(stream, visitor, { onEvent, ready });
          onRead();
          await isWanted;
          return frame;
        });
        options.onWritten?.(info);
      } finally {
        await options.onClose?.();
      }
    });
  }

  async #write(feed: Feed): Promise<SnapshotInfo> {
    const { signal } = this.#options;
    if (signal?.aborted) throw abortError(signal, 'writeSnapshot');
    const begun = await this.#store.begin();
    try {
      return await this.#storeGuest(begun, feed);
    } finally {
      await begun.end();
    }
  }

  async #storeGuest({ parent, workingSet: setText }: Begun, feed: Feed): Promise<SnapshotInfo> {
    const { storage, cache } = this.#store;
    const { signal, onProgress } = this.#options;
    const intake = new PageIntake();
    const parentPages = parent === null ? null : new ParentPages(parent.map, cache);
    const base = parentPages?.storedPages ?? 0;
    const makePacks = (size: number): OwnPacks => new OwnPacks(storage, size, base, signal);
    let workingSet: readonly PageRange[] = [];
    const readSet = (): PageRuns | null => {
      if (setText === null) return null;
      workingSet = this.#workingSet(setText, intake);
      return pagesOfSet(workingSet, intake.blockList);
    };
    const storer = new PageStorer(intake, parentPages, makePacks, readSet, cache);
    let failure: QemuFileError | undefined;
    const storing = storer.run().catch((error: unknown) => {
      failure = toQemuFileError(error);
      intake.queue.end();
      throw error;
    });
    storing.catch(noop);
    const ready = async (): Promise<void> => {
      await intake.queue.room();
      if (failure !== undefined) throw failure;
      onProgress?.({ bytes: intake.arrivedBytes, storedBytes: storer.packs?.bytes ?? 0 });
    };
    let stopFollowing: () => void = noop;
    const aborted = new Promise<never>((_resolve, reject) => {
      stopFollowing = onAbort(signal, () =>
        reject(abortError(signal as AbortSignal, 'writeSnapshot')),
      );
    });
    try {
      const feeding = feed(intake, ready);
      // A source that does not move must not hide an error of the storage.
      const frame = await Promise.race([feeding, aborted, storing.then(() => feeding)]);
      intake.queue.end();
      await Promise.race([storing, aborted]);
      const own = (await storer.packs?.finish()) ?? NO_PACKS;
      signal?.throwIfAborted();
      return await completeSnapshot({
        storage,
        name: this.#name,
        options: this.#options,
        frame,
        intake,
        parent,
        own,
        workingSet,
      });
    } finally {
      stopFollowing();
      intake.queue.end();
      await storing.catch(noop);
      await storer.packs?.settle();
    }
  }

  /** Return the pages of a working set; none of one that does not fit the guest. */
  #workingSet(text: string, { pageSize, blockList }: PageIntake): readonly PageRange[] {
    const set = decodeWorkingSet(text, { pageSize, blocks: blockList });
    if (typeof set !== 'string') return set;
    this.#options.onWarning?.(`the working set is not used: ${set}`);
    return [];
  }
}

/** Read a stream, which may be in containers. */
async function collectStream(
  source: StreamSource,
  pages: PageVisitor,
  options: CollectFrameOptions,
): Promise<GuestFrame> {
  await using stream = await openBareStream(source);
  const { file, fileOffset } = stream;
  return await collectFrame(file, pages, { fileOffset, ...options });
}
