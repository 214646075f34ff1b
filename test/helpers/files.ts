import { execFileSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import type { TempDir } from './cleanup.ts';

/** Return the permission bits of a file. */
export function modeOf(path: string): number {
  return statSync(path).mode & 0o7777;
}

/** Return whether a descriptor of this process is open. */
export function isOpen(fd: number): boolean {
  return existsSync(`/proc/self/fd/${fd}`);
}

/** Make a FIFO in a directory; return its path. */
export function makeFifo(directory: TempDir, name = 'fifo'): string {
  execFileSync('mkfifo', [directory.join(name)]);
  return directory.join(name);
}
