import { spawnSync } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { makeTempDir, onProcessEnd } from '../cleanup.ts';

/** A file system on a loop device, whose disk can be made to fail. */
export interface LoopDisk extends Disposable {
  /** Return the path of a name on it. */
  join(name: string): string;
  /** From a byte of the disk on, a multiple of 4096, the kernel reports EIO; what it knows of a file is forgotten. */
  failFrom(byte: number, file: string): void;
}

const DISK_BYTES = 16 << 20;

/** Mount a file system on a loop device; it is unmounted at the end of its `using` or of the process. */
export function mountLoopDisk(): LoopDisk {
  const dir = makeTempDir();
  const disk = dir.join('disk');
  const mounted = dir.join('mounted');
  const remove = (): void => {
    spawnSync('umount', ['--lazy', mounted]);
    dir.remove();
  };
  const withdraw = onProcessEnd(remove);
  const dispose = (): void => {
    remove();
    withdraw();
  };
  try {
    writeFileSync(disk, '');
    truncateSync(disk, DISK_BYTES);
    succeed('mkfs.ext2', ['-q', '-F', disk]);
    succeed('mkdir', [mounted]);
    succeed('mount', ['-o', 'loop', disk, mounted]);
  } catch (error) {
    dispose();
    throw error;
  }
  return {
    join: (name) => `${mounted}/${name}`,
    failFrom: (byte, file) => {
      truncateSync(disk, byte);
      // Without anything to copy, dd only drops the pages of the file from the cache.
      succeed('dd', [`if=${file}`, 'iflag=nocache', 'count=0']);
    },
    [Symbol.dispose]: dispose,
  };
}

/** A block device whose contents are a file. */
export interface LoopDevice extends Disposable {
  readonly path: string;
}

/** Make a block device of a file, of which it has the whole sectors; it is given back at the end of its `using`. */
export function attachLoopDevice(file: string): LoopDevice {
  const path = succeed('losetup', ['--find', '--show', file]).trim();
  const detach = (): void => void spawnSync('losetup', ['--detach', path]);
  const withdraw = onProcessEnd(detach);
  return {
    path,
    [Symbol.dispose]: () => {
      detach();
      withdraw();
    },
  };
}

/** Run a program and return its output. */
function succeed(command: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} failed: ${error?.message ?? stderr.trim()}`);
  return stdout;
}

/**
 * Return the `skip` option of tests that need a loop device: `false` where one can be made. Most containers have none,
 * so what depends on it has another test beside it that runs everywhere.
 */
export function requireLoopDisk(): string | false {
  try {
    mountLoopDisk()[Symbol.dispose]();
    return false;
  } catch (error) {
    const reason = `no file system can be mounted on a loop device: ${(error as Error).message}`;
    process.stderr.write(`SKIPPED, because ${reason}\n`);
    return reason;
  }
}
