import type {
  ObjectStorage,
  StorageOptions,
  StoredObject,
} from '../../../adapters/storage/object-storage.ts';
import { isDigest, isSnapshotName, PREFIX, STORE_MARK } from '../format/keys.ts';

/** The objects of a store, by kind; packs, maps and manifests by their names. */
export interface StoreContents {
  readonly packs: Map<string, StoredObject>;
  readonly maps: Map<string, StoredObject>;
  readonly snapshots: Map<string, StoredObject>;
  /** Working sets, by the names of the maps of their snapshots. */
  readonly workingSets: Map<string, StoredObject>;
  readonly writers: StoredObject[];
  readonly claims: StoredObject[];
  /** Objects that are not of a store. */
  readonly others: StoredObject[];
}

/** List all objects of a store. */
export async function listContents(
  storage: ObjectStorage,
  options: StorageOptions,
): Promise<StoreContents> {
  const contents: StoreContents = {
    packs: new Map(),
    maps: new Map(),
    snapshots: new Map(),
    workingSets: new Map(),
    writers: [],
    claims: [],
    others: [],
  };
  for await (const object of storage.list('', options)) {
    const { key } = object;
    const name = key.slice(key.indexOf('/') + 1);
    if (key.startsWith(PREFIX.packs) && isDigest(name)) contents.packs.set(name, object);
    else if (key.startsWith(PREFIX.maps) && isDigest(name)) contents.maps.set(name, object);
    else if (key.startsWith(PREFIX.snapshots) && isSnapshotName(name)) {
      contents.snapshots.set(name, object);
    } else if (key.startsWith(PREFIX.workingSets) && isDigest(name)) {
      contents.workingSets.set(name, object);
    } else if (key.startsWith(PREFIX.writers)) contents.writers.push(object);
    else if (key.startsWith(PREFIX.claims)) contents.claims.push(object);
    else if (key !== STORE_MARK) contents.others.push(object);
  }
  return contents;
}
