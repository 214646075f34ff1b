import { fstatSync } from 'node:fs';

/** Return whether a descriptor is one of a regular file; false for a negative one. */
export function isRegularFile(fd: number): boolean {
  return fd >= 0 && fstatSync(fd).isFile();
}
