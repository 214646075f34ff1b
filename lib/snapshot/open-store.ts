import { openStorage } from '../../adapters/storage/open-storage.ts';
import type { StoreUrl } from '../../adapters/storage/store-url.ts';
import { SnapshotStore, type SnapshotStoreOptions } from './store.ts';

/**
 * Open a snapshot store. A place that has nothing in it becomes one when the first snapshot is written.
 *
 * @param url - `store:DIR` or `s3://BUCKET[/PREFIX][?endpoint=…&region=…&pathStyle=true]`, or the result of
 *   `parseStoreUrl`. The name of a snapshot in it is ignored.
 * @param options - `cacheBytes`: bytes of decompressed memory that its readers keep.
 * @returns The store. The caller closes it.
 * @throws {QemuFileError} (rejects) as `openStorage`.
 * @example
 * ```js
 * const store = await openStore('store:/srv/vm');
 * await store.writer('base').writeStream(await openFrom('file:/var/lib/vm.mig'));
 * const guest = await store.reader('base');
 * console.log(guest.info.machine, guest.info.ramBytes); // microvm 16842752
 * await store.close();
 * ```
 */
export async function openStore(
  url: string | StoreUrl,
  options: SnapshotStoreOptions = {},
): Promise<SnapshotStore> {
  return new SnapshotStore(await openStorage(url), options);
}
