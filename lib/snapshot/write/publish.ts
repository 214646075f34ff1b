import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { noop } from '../../util/noop.ts';
import { manifestKey, PREFIX } from '../format/keys.ts';
import { encodeManifest, type SnapshotManifest } from '../format/manifest.ts';
import { REMOVE_TIMEOUT_MS } from './writer-mark.ts';

/** Age at which the claim of a writer that was killed does not count any more, in milliseconds. */
const STALE_CLAIM_MS = 60_000;

/** Milliseconds between two looks at another writer's claim. */
const LOOK_INTERVAL_MS = 100;

/**
 * Put a manifest under its name: from then on there is a snapshot.
 *
 * @throws {QemuFileError} (rejects) `EEXIST` if there is one of that name, or another writer puts it at the same
 *   time; the error of the storage.
 */
export async function publish(
  storage: ObjectStorage,
  manifest: SnapshotManifest,
  isReplacing: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { name } = manifest;
  const key = manifestKey(name);
  const body = [encodeManifest(manifest)];
  if (isReplacing) return storage.put(key, body, { signal });
  if (storage.canPutIfAbsent !== true) {
    return withClaim(storage, name, signal, async () => {
      if ((await storage.stat(key, { signal })) !== null) throw nameExists(storage, name);
      await storage.put(key, body, { signal, ifAbsent: true });
    });
  }
  try {
    await storage.put(key, body, { signal, ifAbsent: true });
  } catch (error) {
    const failure = toQemuFileError(error);
    throw failure.code === 'EEXIST' ? nameExists(storage, name, failure) : failure;
  }
}

/** Return the error for a name that is taken. */
export function nameExists(storage: ObjectStorage, name: string, cause?: unknown): QemuFileError {
  const reason = `${storage.name} has a snapshot "${name}" already`;
  const advice = 'choose another name, or replace it with "replace" (--replace)';
  return new QemuFileError('EEXIST', reason, { operation: 'writeSnapshot', advice, cause });
}

/**
 * Do something as the only one who does it for a name, in storage that cannot decide between two writers. Each
 * writer puts a claim first. If two see each other, the one with the greater claim gives up; the other one waits
 * until that claim is gone, and then looks again.
 */
async function withClaim(
  storage: ObjectStorage,
  name: string,
  signal: AbortSignal | undefined,
  work: () => Promise<void>,
): Promise<void> {
  const prefix = `${PREFIX.claims}${name}/`;
  const own = prefix + randomUUID();
  try {
    await storage.put(own, [Buffer.from('\n')], { signal });
    for (;;) {
      let isAlone = true;
      const ownAge = (await storage.stat(own, { signal }))?.modifiedMs ?? Date.now();
      for await (const { key, modifiedMs } of storage.list(prefix, { signal })) {
        if (key === own) continue;
        if (modifiedMs < ownAge - STALE_CLAIM_MS) {
          await storage.remove(key, { signal });
          continue;
        }
        if (key < own) throw nameExists(storage, name);
        isAlone = false;
      }
      if (isAlone) return await work();
      await delay(LOOK_INTERVAL_MS, undefined, { signal });
    }
  } finally {
    const patience = AbortSignal.timeout(REMOVE_TIMEOUT_MS);
    await storage.remove(own, { signal: patience }).catch(noop);
  }
}
