import { statfs } from 'node:fs/promises';
import { ifSupported } from '../qmp/if-supported.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';

/** A memory backend whose contents are a file that userfaultfd cannot serve. */
export interface FileBackend {
  readonly id: string;
  readonly path: string;
}

/** Types of the file systems whose files are memory, as `statfs` reports them: tmpfs, hugetlbfs, ramfs. */
const MEMORY_FILE_SYSTEMS: ReadonlySet<number> = new Set([0x01021994, 0x958458f6, 0x858458f6]);

/**
 * Find a memory backend of a QEMU on this host that is a file on a disk.
 *
 * @returns The first such backend; null if there is none, or its file cannot be looked at from here.
 */
export async function memoryOnDisk(qmp: QmpClient): Promise<FileBackend | null> {
  const backends = await ifSupported(qmp.execute<readonly { id?: string }[]>('query-memdev'));
  for (const { id } of backends ?? []) {
    if (id === undefined) continue;
    const path = await ifSupported(
      qmp.execute<unknown>('qom-get', { path: `/objects/${id}`, property: 'mem-path' }),
    );
    if (typeof path === 'string' && path !== '' && (await isOnDisk(path))) return { id, path };
  }
  return null;
}

async function isOnDisk(path: string): Promise<boolean> {
  try {
    return !MEMORY_FILE_SYSTEMS.has((await statfs(path)).type >>> 0);
  } catch {
    return false;
  }
}
