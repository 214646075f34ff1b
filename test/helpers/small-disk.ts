import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onProcessEnd } from './cleanup.ts';

/** A file system of its own that is soon full. */
export interface SmallDisk extends AsyncDisposable {
  readonly path: string;
  /** Gives the path of a name on it. */
  join(name: string): string;
  /** Writes a file that leaves so many bytes, a multiple of 4096. */
  fill(left?: number): void;
}

/** What a small file system has room for. */
export interface DiskSize {
  /** Bytes of all files, a multiple of 4096. Default 1 MiB. */
  bytes?: number;
  /** Files, its own directory included. */
  inodes?: number;
}

/** Mounts a new and small file system; it goes away at the end of its `await using` or of the process. */
export function mountSmallDisk({ bytes = 1 << 20, inodes = 64 }: DiskSize = {}): SmallDisk {
  const path = mkdtempSync(join(tmpdir(), 'qemu-file-disk-'));
  const options = `size=${bytes},nr_inodes=${inodes},mode=700`;
  const { status, stderr } = spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path], {
    encoding: 'utf8',
  });
  if (status !== 0) {
    rmdirSync(path);
    throw new Error(`a tmpfs cannot be mounted: ${stderr?.trim()}`);
  }
  const remove = () => {
    // Lazily, since who failed a test may still have something open.
    spawnSync('umount', ['--lazy', path]);
    rmdirSync(path);
  };
  const withdraw = onProcessEnd(remove);
  return {
    path,
    join: (name) => join(path, name),
    fill: (left = 0) => {
      const { bavail, bsize } = statfsSync(path);
      writeFileSync(join(path, 'fill'), Buffer.alloc(bavail * bsize - left));
    },
    [Symbol.asyncDispose]: async () => {
      remove();
      withdraw();
    },
  };
}

let refusal: string | false | undefined;

/**
 * The value for the `skip` option of tests that need a small disk: `false` where one can be mounted.
 *
 * @throws Error where that is refused and `CI` is set: there, a skipped test would be a failure nobody sees.
 */
export function requireSmallDisk(): string | false {
  refusal ??= refusalOf();
  if (refusal === false) return false;
  if (process.env.CI) throw new Error(`${refusal}, and these tests must not be skipped in CI`);
  process.stderr.write(`SKIPPED, because ${refusal}: run these tests as root\n`);
  return refusal;
}

function refusalOf(): string | false {
  try {
    void mountSmallDisk()[Symbol.asyncDispose]();
    return false;
  } catch (error) {
    return (error as Error).message;
  }
}
