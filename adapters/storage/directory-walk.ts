import fs from 'node:fs';
import { join } from 'node:path';
import { noop } from '../../lib/util/noop.ts';
import { isPartialName, writerOfPartial } from '../file/partial/partial-name.ts';
import { isWriterGone, ownWriter, STALE_AFTER_MS } from '../file/partial/stale-partials.ts';
import { hasCode } from './file-error.ts';
import { isObjectKey } from './object-key.ts';
import type { StoredObject } from './object-storage.ts';

/** Number of files whose sizes are read at the same time. */
const BATCH = 64;

/** A file below a directory: its path there, and its lstat(2). */
interface Found {
  readonly key: string;
  readonly stats: fs.Stats;
}

/**
 * Yield the objects below a directory whose keys begin with a prefix. Anything that is not an object is left
 * out: temporary files, symbolic links, special files, names that are not keys.
 *
 * @param check - Called between steps; throws to end the walk.
 * @throws The system's own error: `ENOENT` for a directory that does not exist.
 */
export async function* listObjects(
  root: string,
  prefix: string,
  check: () => void,
): AsyncGenerator<StoredObject> {
  const isWanted = (key: string): boolean => isObjectKey(key) && key.startsWith(prefix);
  const mayContain = (key: string): boolean =>
    isObjectKey(key) && (`${key}/`.startsWith(prefix) || prefix.startsWith(`${key}/`));
  for await (const { key, stats } of walk(root, isWanted, mayContain, check)) {
    yield { key, bytes: stats.size, modifiedMs: stats.mtimeMs };
  }
}

/** Which temporary files are old. */
interface LeftoverAge {
  readonly olderThanMs: number;
  /** The time by the clock of the file system. */
  readonly nowMs: number;
}

/**
 * Remove the temporary files below a directory that are older than an age and whose writers are gone.
 *
 * @returns Number of files removed; files that this process may not remove stay.
 */
export async function removeLeftoverFiles(
  root: string,
  { olderThanMs, nowMs }: LeftoverAge,
  check: () => void,
): Promise<number> {
  const nameOf = (key: string): string => key.slice(key.lastIndexOf('/') + 1);
  const isWanted = (key: string): boolean => isPartialName(nameOf(key));
  let removed = 0;
  for await (const { key, stats } of walk(root, isWanted, isObjectKey, check)) {
    const ageMs = nowMs - stats.mtimeMs;
    if (ageMs < olderThanMs || !isAbandoned(nameOf(key), ageMs)) continue;
    const isGone = await fs.promises.unlink(join(root, key)).then(() => true, noop);
    if (isGone === true) removed += 1;
  }
  return removed;
}

function isAbandoned(name: string, ageMs: number): boolean {
  const writer = writerOfPartial(name);
  const self = ownWriter();
  if (writer === undefined || self === undefined) return ageMs > STALE_AFTER_MS;
  return isWriterGone(writer, ageMs, self);
}

/** Yield regular files whose keys are wanted; symbolic links are not followed. */
async function* walk(
  root: string,
  isWanted: (key: string) => boolean,
  mayContain: (key: string) => boolean,
  check: () => void,
): AsyncGenerator<Found> {
  const directories = [''];
  for (let next = directories.pop(); next !== undefined; next = directories.pop()) {
    check();
    const entries = await readEntries(root, next);
    const keys: string[] = [];
    for (const entry of entries) {
      const key = next === '' ? entry.name : `${next}/${entry.name}`;
      if (entry.isDirectory()) {
        if (mayContain(key)) directories.push(key);
      } else if (entry.isFile() && isWanted(key)) keys.push(key);
    }
    for (let at = 0; at < keys.length; at += BATCH) {
      check();
      const batch = keys.slice(at, at + BATCH);
      const found = await Promise.all(batch.map((key) => lstatOrNull(root, key)));
      for (const one of found) if (one?.stats.isFile() === true) yield one;
    }
  }
}

async function readEntries(root: string, directory: string): Promise<fs.Dirent[]> {
  try {
    return await fs.promises.readdir(join(root, directory), { withFileTypes: true });
  } catch (error) {
    // Another process may remove a directory between two steps, but not the root.
    if (directory !== '' && (hasCode(error, 'ENOENT') || hasCode(error, 'ENOTDIR'))) return [];
    throw error;
  }
}

async function lstatOrNull(root: string, key: string): Promise<Found | null> {
  try {
    return { key, stats: await fs.promises.lstat(join(root, key)) };
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return null;
    throw error;
  }
}
