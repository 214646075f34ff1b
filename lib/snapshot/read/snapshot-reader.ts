import type { ObjectStorage, StorageOptions } from '../../../adapters/storage/object-storage.ts';
import type { Configuration } from '../../migration/format/events.ts';
import { StreamInput } from '../../migration/format/stream-input.ts';
import type { PageRange } from '../../migration/page-source/page-source.ts';
import { encodeWorkingSet } from '../../migration/page-source/working-set.ts';
import { readConfiguration } from '../../migration/reader/configuration.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { markSound } from '../../migration/verify/sound-streams.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import { workingSetKey } from '../format/keys.ts';
import type { SnapshotInfo, SnapshotManifest } from '../format/manifest.ts';
import type { SnapshotMap } from '../format/map.ts';
import { sealText } from '../format/sealed-text.ts';
import type { FrameCache } from './frame-cache.ts';
import type { KeptWorkingSet } from './read-working-set.ts';
import { SnapshotPages } from './snapshot-pages.ts';
import { streamOf } from './snapshot-stream.ts';

/**
 * Bytes of memory that are read ahead of a stream: enough that each of 50 ancestors that has its part of them is asked
 * for some frames at a time.
 */
const STREAM_READ_AHEAD_BYTES = 16_777_216;

/** The parts of its store that a reader uses. */
export interface OpenedSnapshot {
  readonly storage: ObjectStorage;
  readonly cache: FrameCache;
  readonly manifest: SnapshotManifest;
  readonly map: SnapshotMap;
  readonly configuration: Configuration | null;
  /** Null if it was not asked for. */
  readonly workingSet: KeptWorkingSet | null;
}

/** A snapshot that is read: a saved guest with random access to its memory. */
export class SnapshotReader implements SavedGuest {
  /** Facts about the snapshot, from its manifest. */
  readonly info: SnapshotInfo;
  readonly configuration: Configuration | null;
  readonly configurationBytes: SavedGuest['configurationBytes'];
  readonly hasFooters: boolean;
  readonly ram: SavedGuest['ram'];
  readonly sections: SavedGuest['sections'];
  readonly sectionsBeforeRam: number;
  readonly descriptionText: SavedGuest['descriptionText'];
  readonly pages: SnapshotPages;
  /** The pages that a lazily restored guest needs first, if a set of them is kept with the snapshot and was read. */
  readonly workingSet: readonly PageRange[];
  /** Why a working set is kept that is not in `workingSet`, as clauses. */
  readonly warnings: readonly string[];
  readonly #storage: ObjectStorage;
  readonly #mapDigest: string;
  /** Return pages that are read ahead for one reader. */
  readonly #openPages: () => SnapshotPages;

  /** @internal */
  constructor({ storage, cache, manifest, map, configuration, workingSet }: OpenedSnapshot) {
    const { map: _map, ...info } = manifest;
    this.info = info;
    this.configuration = configuration;
    this.configurationBytes = map.configurationBytes;
    this.hasFooters = map.hasFooters;
    this.ram = map.ram;
    this.sections = map.sections;
    this.sectionsBeforeRam = map.sectionsBeforeRam;
    this.descriptionText = map.descriptionText;
    this.pages = new SnapshotPages(map, cache);
    this.#openPages = () => new SnapshotPages(map, cache, STREAM_READ_AHEAD_BYTES);
    this.workingSet = workingSet?.ranges ?? [];
    const problem = workingSet?.problem ?? null;
    this.warnings = problem === null ? [] : [problem];
    this.#storage = storage;
    this.#mapDigest = manifest.map.sha256;
  }

  /**
   * Return a file from which the snapshot is read as a migration stream: one round, each page once. Any number of
   * files can be read at the same time.
   *
   * @param onClose - Called when the file is closed.
   */
  stream(onClose: () => Promise<void> = async () => {}): QemuFile {
    let openFiles = 0;
    const open = (): QemuFile => {
      openFiles += 1;
      return streamOf(this, this.#openPages(), async () => {
        openFiles -= 1;
        if (openFiles === 0) await onClose();
      });
    };
    const file = open();
    markSound(file, open);
    return file;
  }

  /**
   * Keep a working set with the snapshot, in place of another one: the `workingSet` of a lazy restore. `gc` removes it
   * with the snapshot's map.
   *
   * @param set - Ranges of pages in the order in which they were asked for.
   * @param options - `signal` ends the request.
   * @throws {QemuFileError} (rejects) the error of the storage.
   */
  async keepWorkingSet(set: readonly PageRange[], options: StorageOptions = {}): Promise<void> {
    const text = encodeWorkingSet(set, this.pages).trimEnd();
    await this.#storage.put(workingSetKey(this.#mapDigest), [sealText(text)], options);
  }

  /** Does nothing: the store that opened the snapshot holds all resources. */
  close(): Promise<void> {
    return Promise.resolve();
  }
}

/**
 * Decode a configuration section.
 *
 * @param section - The section as it was sent, from its type byte.
 * @throws {MigrationStreamError} (rejects) as `MigrationReader`.
 */
export async function decodeConfiguration(section: Uint8Array): Promise<Configuration> {
  // The reader of the section looks at the byte after it for a further part.
  const bytes = Buffer.concat([section.subarray(1), Buffer.alloc(1)]);
  let isRead = false;
  const file = new QemuFile({
    getBuffer() {
      if (isRead) return 0;
      isRead = true;
      return bytes;
    },
  });
  try {
    return await readConfiguration(new StreamInput(file));
  } finally {
    await file.close().catch(noop);
  }
}
