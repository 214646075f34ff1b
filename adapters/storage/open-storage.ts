import { QemuFileError } from '../../lib/contract/errors.ts';
import { directoryStorage } from './directory-storage.ts';
import type { ObjectStorage } from './object-storage.ts';
import { parseStoreUrl, type StoreUrl } from './store-url.ts';

/**
 * Open the storage of a snapshot store: `directoryStorage` for `store:`. Nothing is read or created yet.
 *
 * @param url - Text as for `parseStoreUrl`, or its result. The name of a snapshot in it is ignored.
 * @returns Storage. The caller closes it.
 * @throws {QemuFileError} (rejects) As `parseStoreUrl`.
 */
export async function openStorage(url: string | StoreUrl): Promise<ObjectStorage> {
  const parsed = typeof url === 'string' ? parseStoreUrl(url) : url;
  switch (parsed.scheme) {
    case 'store':
      return directoryStorage(parsed.path);
    case 's3':
      await Promise.resolve();
      throw new QemuFileError('ENOTSUP', 's3: is not there yet', { operation: 'openStorage' });
  }
}
