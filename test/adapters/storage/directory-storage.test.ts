import { directoryStorage } from '../../../adapters/storage/directory-storage.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { storageConformance } from './conformance.ts';

storageConformance('storage in a directory', { canPutIfAbsent: true }, async () => {
  const directory = makeTempDir();
  const storage = directoryStorage(directory.join('store'));
  await storage.put('made', []);
  await storage.remove('made');
  return {
    storage,
    [Symbol.asyncDispose]: async () => {
      await storage.close();
      directory.remove();
    },
  };
});
