import { directoryStorage } from './directory-storage.ts';
import type { ObjectStorage } from './object-storage.ts';
import { parseStoreUrl, type StoreUrl } from './store-url.ts';

/**
 * Open the storage of a snapshot store: `directoryStorage` for `store:`, `s3Storage` for `s3:`. Nothing is read
 * or created yet.
 *
 * @param url - Text as for `parseStoreUrl`, or its result. The name of a snapshot in it is ignored.
 * @returns Storage. The caller closes it.
 * @throws {QemuFileError} (rejects) As `parseStoreUrl` and `s3Storage`.
 */
export async function openStorage(url: string | StoreUrl): Promise<ObjectStorage> {
  const parsed = typeof url === 'string' ? parseStoreUrl(url) : url;
  switch (parsed.scheme) {
    case 'store':
      return directoryStorage(parsed.path);
    case 's3': {
      // The module and the package below it are loaded only by those who use them.
      const { s3Storage } = await import('./s3/s3-storage.ts');
      return s3Storage(parsed);
    }
  }
}
