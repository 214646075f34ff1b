import fs from 'node:fs';
import type { Direction, OpsOf } from '../lib/contract/ops.ts';
import { type OpenFdOptions, openFd, type PathOps } from './file/open-file.ts';

/**
 * Open the file at a path: a FIFO as `openFifo` does, anything else as `openFd` does. QEMU's
 * `file:path,offset=N`.
 *
 * @param path - The path to open.
 * @param options - As for `openFd`. A FIFO uses only `direction` and `signal`.
 * @throws {QemuFileError} (rejects) As `openFd` and `openFifo`; `ENOTSUP` for a UNIX socket, which `unix:PATH`
 *   opens.
 */
export async function openPath<D extends Direction>(
  path: string,
  options: OpenFdOptions<D>,
): Promise<PathOps<D> | OpsOf<D>> {
  if (!(await isFifo(path))) return openFd(path, options);
  const { openFifo } = await import('./pipe/fifo.ts');
  return openFifo(path, options);
}

async function isFifo(path: string): Promise<boolean> {
  try {
    return (await fs.promises.stat(path)).isFIFO();
  } catch {
    // The opener meets the same error and reports it better.
    return false;
  }
}
