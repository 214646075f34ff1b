import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

/**
 * Return the bytes that only a process has, of its mappings of a file.
 *
 * @param path - The file, or the end of its path.
 */
export function privateBytes(pid: number, path: string): number {
  const maps = readFileSync(`/proc/${pid}/smaps`, 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const own = maps.filter((map) => map.split('\n')[0]?.endsWith(path));
  assert.ok(own.length > 0, `${path} is mapped`);
  const sum = own.reduce((kib, map) => {
    const [, dirty = '0'] = /^Private_Dirty:\s+(\d+) kB/m.exec(map) ?? [];
    return kib + Number(dirty);
  }, 0);
  return sum * 1024;
}

/** Return the bytes that only a process has, in all of its memory. */
export function allPrivateBytes(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const [, kib] = /^Private_Dirty:\s+(\d+) kB/m.exec(rollup) ?? [];
  return Number(kib) * 1024;
}
