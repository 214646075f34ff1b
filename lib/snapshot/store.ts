import type { ObjectStorage, StorageOptions } from '../../adapters/storage/object-storage.ts';
import { QemuFileError, toQemuFileError } from '../contract/errors.ts';
import { quote } from '../util/format.ts';
import { noop } from '../util/noop.ts';
import {
  checkSnapshotName,
  isSnapshotName,
  manifestKey,
  PREFIX,
  STORE_MARK,
} from './format/keys.ts';
import { MAX_MANIFEST_BYTES, STORE_VERSION } from './format/limits.ts';
import { laterVersion, type SnapshotInfo, type SnapshotManifest } from './format/manifest.ts';
import { checkStore, type FsckOptions, type FsckResult } from './maintain/check-store.ts';
import { collectGarbage, type GcOptions, type GcResult } from './maintain/collect-garbage.ts';
import { type CopyOptions, copySnapshot } from './maintain/copy-snapshot.ts';
import { FrameCache } from './read/frame-cache.ts';
import { noSnapshot, readManifest, readMap } from './read/read-objects.ts';
import { readWorkingSet, readWorkingSetText } from './read/read-working-set.ts';
import { decodeConfiguration, SnapshotReader } from './read/snapshot-reader.ts';
import { nameExists } from './write/publish.ts';
import { type Begun, SnapshotWriter, type SnapshotWriterOptions } from './write/snapshot-writer.ts';
import { WriterMark } from './write/writer-mark.ts';

const FORMAT = 'qemu-file-store';

/** Manifests that are read at the same time. */
const MAX_READS = 8;

/** Options of a store. */
export interface SnapshotStoreOptions {
  /** Bytes of decompressed frames that all readers together keep. Default 64 MiB. */
  cacheBytes?: number | undefined;
}

/** Options of `reader`. */
export interface SnapshotReaderOptions extends StorageOptions {
  /** Whether to read the working set that is kept with the snapshot. Default false. */
  readonly workingSet?: boolean | undefined;
}

/** Options of `list`. */
export interface SnapshotListOptions extends StorageOptions {
  /** Called for each snapshot that is left out because its manifest cannot be read. Default: `list` fails. */
  readonly onDamage?: ((error: QemuFileError) => void) | undefined;
}

/** Many snapshots in a directory or in object storage. Methods may run at the same time, also on other hosts. */
export class SnapshotStore {
  /** The storage, such as that of `openStorage` or `directoryStorage`. */
  readonly storage: ObjectStorage;
  readonly #cache: FrameCache;
  #isMarked = false;

  /** @param storage - Closed by `close`. */
  constructor(storage: ObjectStorage, options: SnapshotStoreOptions = {}) {
    this.storage = storage;
    this.#cache = new FrameCache(storage, options.cacheBytes);
  }

  /** The storage in messages. */
  get name(): string {
    return this.storage.name;
  }

  /**
   * Return a writer of one snapshot. Nothing happens before something is written with it.
   *
   * @param name - Name of the snapshot: 1 to 128 characters of `A-Z a-z 0-9 . _ -`.
   * @param options - `parent`, `replace`, `workingSet`, `onWarning`, `signal`, `onProgress`.
   * @throws {QemuFileError} `EINVAL` for an invalid name.
   */
  writer(name: string, options: SnapshotWriterOptions = {}): SnapshotWriter {
    checkSnapshotName(name, 'writeSnapshot');
    if (options.parent !== undefined) checkSnapshotName(options.parent, 'writeSnapshot');
    const store = {
      storage: this.storage,
      cache: this.#cache,
      check: () => this.#checkWritable(name, options),
      begin: () => this.#begin(name, options),
    };
    return new SnapshotWriter(store, name, options);
  }

  /**
   * Open a snapshot for reading: its manifest and its map are read now, its memory when it is asked for.
   *
   * @param name - Name of the snapshot.
   * @param options - With `workingSet: true` the pages that are kept with it are read as well; `signal` ends the requests.
   * @returns A guest with random access to its memory.
   * @throws {QemuFileError} (rejects) `EINVAL` for an invalid name; `ENOENT` if there is no such snapshot or
   *   store; `EBADMSG` if manifest or map are damaged; `ENOTSUP` for a later version; the error of the storage.
   */
  async reader(name: string, options: SnapshotReaderOptions = {}): Promise<SnapshotReader> {
    checkSnapshotName(name, 'openSnapshot');
    const { signal } = options;
    const { storage } = this;
    // Requests that do not need each other are sent together: storage may be far away.
    const reading = readManifest(storage, name, { signal });
    reading.catch(noop);
    await this.#checkMark({ signal });
    const manifest = await reading;
    const { sha256 } = manifest.map;
    const readingMap = readMap(storage, manifest.map, { signal });
    readingMap.catch(noop);
    const workingSet =
      options.workingSet === true
        ? await readWorkingSet(storage, sha256, readingMap, { signal })
        : null;
    const map = await readingMap;
    const bytes = map.configurationBytes;
    const configuration = bytes === null ? null : await decodeConfiguration(bytes);
    return new SnapshotReader({
      storage,
      cache: this.#cache,
      manifest,
      map,
      configuration,
      workingSet,
    });
  }

  /**
   * Return the facts about each snapshot of the store, in the order of their names.
   *
   * @param options - `onDamage` is called with the error of each damaged snapshot, which is then left out; `signal`.
   * @throws {QemuFileError} (rejects) `ENOENT` if there is no store; `EBADMSG` for a damaged manifest and `ENOTSUP` for
   *   one of a later version, without `onDamage`; the error of the storage.
   */
  async list(options: SnapshotListOptions = {}): Promise<SnapshotInfo[]> {
    await this.#checkMark(options);
    const names: string[] = [];
    for await (const { key } of this.storage.list(PREFIX.snapshots, options)) {
      const name = key.slice(PREFIX.snapshots.length);
      if (isSnapshotName(name)) names.push(name);
    }
    names.sort();
    const infos: SnapshotInfo[] = [];
    for (let at = 0; at < names.length; at += MAX_READS) {
      const some = names.slice(at, at + MAX_READS);
      const manifests = await Promise.all(some.map((name) => this.#listed(name, options)));
      for (const manifest of manifests) if (manifest !== null) infos.push(infoOf(manifest));
    }
    return infos;
  }

  /** Return the manifest of a listed snapshot; null for one that is damaged, or was removed since then. */
  async #listed(
    name: string,
    { signal, onDamage }: SnapshotListOptions,
  ): Promise<SnapshotManifest | null> {
    try {
      return await readManifest(this.storage, name, { signal });
    } catch (error) {
      const failure = toQemuFileError(error);
      if (failure.code === 'ENOENT') return null;
      if (onDamage === undefined || !['EBADMSG', 'ENOTSUP'].includes(failure.code)) throw failure;
      onDamage(failure);
      return null;
    }
  }

  /**
   * Remove a snapshot. Its children stay whole; what no other snapshot needs stays until `gc`.
   *
   * @param name - Name of the snapshot.
   * @param options - `signal` ends the requests.
   * @throws {QemuFileError} (rejects) `EINVAL`, `ENOENT`; the error of the storage.
   */
  async remove(name: string, options: StorageOptions = {}): Promise<void> {
    checkSnapshotName(name, 'removeSnapshot');
    await this.#checkMark(options);
    const key = manifestKey(name);
    if ((await this.storage.stat(key, options)) === null) throw noSnapshot(this.storage, name);
    await this.storage.remove(key, options);
  }

  /**
   * Copy a snapshot to another store: only what that one lacks. Each object is checked on the way.
   *
   * @param name - Name of the snapshot.
   * @param target - The other store; it may be this one.
   * @param options - `name` of the copy, default the same; `replace`, `onProgress`, `signal`.
   * @returns The facts about the copy, from its manifest.
   * @throws {QemuFileError} (rejects) `EINVAL`, `ENOENT`; `EEXIST` if the other store has one of that name;
   *   `EBADMSG` if an object is damaged or missing; the errors of both storages.
   */
  async copy(
    name: string,
    target: SnapshotStore,
    options: CopyOptions = {},
  ): Promise<SnapshotInfo> {
    const { signal, replace } = options;
    const targetName = options.name ?? name;
    checkSnapshotName(name, 'copySnapshot');
    checkSnapshotName(targetName, 'copySnapshot');
    await this.#checkMark({ signal });
    const manifest = await readManifest(this.storage, name, { signal });
    await target.#checkWritable(targetName, { replace, signal });
    const job = { from: this.storage, manifest, to: target.storage, name: targetName };
    return infoOf(await copySnapshot(job, options));
  }

  /**
   * Remove the packs and maps that no snapshot needs, and what interrupted writers left. It may run beside writers.
   *
   * @param options - `graceMs` (milliseconds, default one day), `dryRun`, `onProgress`, `signal`.
   * @returns The keys that were removed, their bytes, and how many objects stay because they are too new.
   * @throws {QemuFileError} (rejects) `ENOENT` if there is no store; `EBADMSG` if a manifest or a map is damaged: then
   *   nothing is removed; the error of the storage.
   * @throws {RangeError} (rejects) for a negative grace period.
   */
  async gc(options: GcOptions = {}): Promise<GcResult> {
    await this.#checkMark({ signal: options.signal });
    return collectGarbage(this.storage, options);
  }

  /**
   * Check the objects of the store, and return those that are damaged or missing.
   *
   * @param options - `deep` reads every byte; `onProgress`, `signal`.
   * @returns Numbers of snapshots, objects and bytes; each damaged object with the snapshots that it hurts.
   * @throws {QemuFileError} (rejects) `ENOENT` if there is no store; the error of the storage.
   */
  async fsck(options: FsckOptions = {}): Promise<FsckResult> {
    await this.#checkMark({ signal: options.signal });
    return checkStore(this.storage, options);
  }

  /** Close the storage. Readers and writers must be done. */
  close(): Promise<void> {
    return this.storage.close();
  }

  /** Check that a name is free, and return the manifest of the parent; null without one. */
  async #checkWritable(
    name: string,
    { parent, replace, signal }: SnapshotWriterOptions,
  ): Promise<SnapshotManifest | null> {
    const options = { signal };
    await this.#makeMark(options);
    if (replace !== true && (await this.storage.stat(manifestKey(name), options)) !== null) {
      throw nameExists(this.storage, name);
    }
    return parent === undefined ? null : readManifest(this.storage, parent, options);
  }

  async #begin(name: string, options: SnapshotWriterOptions): Promise<Begun> {
    const { signal } = options;
    const manifest = await this.#checkWritable(name, options);
    const maps = manifest === null ? [] : [manifest.map.sha256];
    const mark = await WriterMark.put(this.storage, { maps }, signal);
    const given = options.workingSet ?? null;
    try {
      const end = (): Promise<void> => mark.remove();
      if (manifest === null) return { parent: null, workingSet: given, end };
      // The mark keeps what the parent needs, if the parent was still there when the mark was put.
      const again = await readManifest(this.storage, manifest.name, { signal });
      if (again.map.sha256 === manifest.map.sha256) {
        const map = await readMap(this.storage, manifest.map, { signal });
        const workingSet = given ?? (await this.#workingSetText(manifest, options));
        return { parent: { manifest, map }, workingSet, end };
      }
    } catch (error) {
      await mark.remove();
      throw error;
    }
    // The parent was replaced.
    await mark.remove();
    return this.#begin(name, options);
  }

  /** Return the text of the working set that is kept with a parent; null without one that can be read. */
  async #workingSetText(
    { map }: SnapshotManifest,
    { signal, onWarning }: SnapshotWriterOptions,
  ): Promise<string | null> {
    try {
      return await readWorkingSetText(this.storage, map.sha256, { signal });
    } catch (error) {
      const { code, reason } = toQemuFileError(error);
      if (code === 'ECANCELED') throw error;
      if (code !== 'ENOENT') onWarning?.(reason);
      return null;
    }
  }

  /** Check that there is a store of a version that this package knows. */
  async #checkMark(options: StorageOptions): Promise<void> {
    if (this.#isMarked) return;
    if (!(await this.#hasMark(options))) {
      // Listing fails by itself, and says why, if there is no such directory or bucket.
      for await (const _object of this.storage.list('', options)) break;
      const reason = `${this.name} is not a snapshot store: it has no object "${STORE_MARK}"`;
      const advice = 'check the URL; the first snapshot that is written makes a store';
      throw new QemuFileError('ENOENT', reason, { operation: 'openStore', advice });
    }
    this.#isMarked = true;
  }

  /** Make a store of a place that has nothing in it. */
  async #makeMark(options: StorageOptions): Promise<void> {
    if (this.#isMarked) return;
    if (!(await this.#hasMark(options))) {
      // An object that is found may be of another writer, which has made the store meanwhile.
      const found = await this.#firstObject(options);
      if (found === null) {
        const text = JSON.stringify({ format: FORMAT, version: STORE_VERSION });
        await this.storage.put(STORE_MARK, [Buffer.from(`${text}\n`)], options);
      } else if (!(await this.#hasMark(options))) {
        const reason = `${this.name} is not a snapshot store, and not empty: it has ${quote(found)}; choose another place`;
        throw new QemuFileError('EINVAL', reason, { operation: 'openStore' });
      }
    }
    this.#isMarked = true;
  }

  /** Return the key of any object in the storage; null if there is none, or no directory yet. */
  async #firstObject(options: StorageOptions): Promise<string | null> {
    try {
      for await (const { key } of this.storage.list('', options)) return key;
    } catch (error) {
      const failure = toQemuFileError(error);
      if (failure.code !== 'ENOENT') throw failure;
    }
    return null;
  }

  async #hasMark(options: StorageOptions): Promise<boolean> {
    let bytes: Buffer;
    try {
      bytes = await this.storage.get(STORE_MARK, MAX_MANIFEST_BYTES, options);
    } catch (error) {
      const failure = toQemuFileError(error);
      if (failure.code === 'ENOENT') return false;
      throw failure;
    }
    let mark: unknown;
    try {
      mark = JSON.parse(bytes.toString());
    } catch {
      mark = null;
    }
    const { format, version } = (mark ?? {}) as Record<string, unknown>;
    if (format !== FORMAT) {
      const reason = `${this.name} is not a snapshot store: its object "${STORE_MARK}" is another thing`;
      throw new QemuFileError('EBADMSG', reason, { operation: 'openStore' });
    }
    if (version !== STORE_VERSION) throw laterVersion(`${this.name}/${STORE_MARK}`, version);
    return true;
  }
}

function infoOf(manifest: SnapshotInfo): SnapshotInfo {
  const { map: _map, ...info } = manifest as SnapshotManifest;
  return info;
}
