import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import { damaged } from '../format/damage.ts';
import { packKey } from '../format/keys.ts';
import type { MapPack } from '../format/map.ts';

/** Packs that are looked for at the same time. */
const MAX_LOOKS = 8;

/**
 * Check that packs are there, right before a snapshot that needs them is published.
 *
 * @throws {QemuFileError} (rejects) `EBADMSG` if one is missing or has another size; the error of the storage.
 */
export async function checkPresent(
  storage: ObjectStorage,
  packs: readonly MapPack[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const left = packs.values();
  const look = async (): Promise<void> => {
    for (const { digest, bytes } of left) {
      const key = packKey(digest);
      const found = await storage.stat(key, { signal });
      if (found === null) {
        throw damaged(
          key,
          'it is missing; it was removed while the snapshot was written: try again',
        );
      }
      if (found.bytes !== bytes) throw damaged(key, `it has ${found.bytes} bytes, not ${bytes}`);
    }
  };
  await Promise.all(Array.from({ length: MAX_LOOKS }, look));
}
