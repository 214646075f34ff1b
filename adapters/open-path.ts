import fs from 'node:fs';
import type { FdReadOps } from './file/fd.ts';
import { type OpenFdOptions, openFd, type PathWriteOps } from './file/open-file.ts';
import { openFifo } from './pipe/fifo.ts';
import type { PipeReadOps, PipeWriteOps } from './pipe/pipe-ends.ts';

/**
 * Opens whatever is at a path: a FIFO as `openFifo` does, anything else as `openFd` does. QEMU's
 * `file:path,offset=N`.
 *
 * @param path - What to open.
 * @param options - As for `openFd`; a FIFO heeds only `direction` and `signal`.
 * @throws {QemuFileError} As `openFd` and `openFifo`; `ENOTSUP` for a unix socket, which `unix:PATH` opens.
 */
export function openPath(
  path: string,
  options: OpenFdOptions & { direction: 'read' },
): Promise<FdReadOps | PipeReadOps>;
export function openPath(
  path: string,
  options: OpenFdOptions & { direction: 'write' },
): Promise<PathWriteOps | PipeWriteOps>;
export function openPath(
  path: string,
  options: OpenFdOptions,
): Promise<FdReadOps | PipeReadOps | PathWriteOps | PipeWriteOps>;
export async function openPath(
  path: string,
  options: OpenFdOptions,
): Promise<FdReadOps | PipeReadOps | PathWriteOps | PipeWriteOps> {
  return (await isFifo(path)) ? openFifo(path, options) : openFd(path, options);
}

async function isFifo(path: string): Promise<boolean> {
  try {
    return (await fs.promises.stat(path)).isFIFO();
  } catch {
    // The opener will meet the same, and tell it better.
    return false;
  }
}
