import { memoryStorage } from '../../../adapters/storage/memory-storage.ts';
import { storageConformance } from './conformance.ts';

storageConformance('storage in memory', { canPutIfAbsent: true }, async () => {
  const storage = memoryStorage();
  return { storage, [Symbol.asyncDispose]: () => storage.close() };
});
