import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onProcessEnd } from '../cleanup.ts';

/** A small file system. */
export interface SmallDisk extends AsyncDisposable {
  readonly path: string;
  /** Return the path of a name on it. */
  join(name: string): string;
  /** Write a file that leaves `left` bytes, a multiple of 4096. */
  fill(left?: number): void;
}

/** Capacity of a small file system. */
export interface DiskSize {
  /** Bytes of all files, a multiple of 4096. Default 1 MiB. */
  bytes?: number;
  /** Number of files, its root directory included. */
  inodes?: number;
}

/** Mount a new small file system; it is unmounted at the end of its `await using` or of the process. */
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
    // Lazily, because a failed test may still have a file open.
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
 * Return the `skip` option of tests that need a small disk: `false` where one can be mounted.
 *
 * @throws Error where that is refused and `CI` is set: a skipped test would hide a failure there.
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
